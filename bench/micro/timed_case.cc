#include "bench/micro/timed_case.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace quire::micro {

TimedMeasurement::TimedMeasurement(TimedCase timed, Team& team)
    : timed_(std::move(timed)), team_(team), read_(timed_.memory, team) {
  team_.run(timed_.work);
}

// What the multiply-accumulates of the case take at the peak of this very moment.
double TimedMeasurement::mac_seconds() const {
  double seconds = 0;
  for (int kind = 0; kind < kMacKinds; ++kind) {
    const double wanted = timed_.macs[static_cast<size_t>(kind)];
    if (wanted == 0) continue;
    std::vector<uint64_t> done(team_.threads());
    const Lap lap =
        team_.run([&](uint32_t thread) { done[thread] = mac_burst(timed_.isa, static_cast<Mac>(kind)); });
    const uint64_t all = std::accumulate(done.begin(), done.end(), uint64_t{0});
    // Processor time: a burst is too short for its share of interruptions.
    seconds += wanted * lap.cpu / static_cast<double>(all);
  }
  return seconds;
}

double TimedMeasurement::round() {
  Round round{};
  round.read = team_.run([this](uint32_t thread) { read_.read(thread); });
  round.mac_seconds = mac_seconds();
  round.work = team_.run(timed_.work);
  round.work.wall /= timed_.row.sampled;
  round.work.cpu /= timed_.row.sampled;
  rounds_.push_back(round);
  return round.work.wall;
}

Spread TimedMeasurement::spread(const std::function<double(const Round&)>& value) const {
  std::vector<double> values;
  for (const Round& round : rounds_) values.push_back(value(round));
  return spread_of(std::move(values));
}

Row TimedMeasurement::row() const {
  Row row = timed_.row;
  row.rounds = static_cast<uint32_t>(rounds_.size());
  row.bytes = timed_.memory.size();
  row.macs = std::accumulate(timed_.macs.begin(), timed_.macs.end(), 0.0);
  row.seconds = spread([](const Round& r) { return r.work.wall; });
  row.cpu_seconds = spread([](const Round& r) { return r.work.cpu; });
  row.read_seconds = spread([](const Round& r) { return r.read.wall; }).median;
  row.read_cpu_seconds = spread([](const Round& r) { return r.read.cpu; }).median;
  row.mac_seconds = spread([](const Round& r) { return r.mac_seconds; }).median;
  row.floor_seconds = std::max(row.read_seconds, row.mac_seconds);
  row.share = spread([](const Round& r) { return std::max(r.read.wall, r.mac_seconds) / r.work.wall; });
  return row;
}

}  // namespace quire::micro
