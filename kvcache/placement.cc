#include "kvcache/placement.h"

#include <algorithm>

namespace quire {
namespace {

constexpr double kNewShare = 0.25;  // of the newest observation

double seconds(double work, double speed) { return speed > 0 ? work / speed : 0; }

}  // namespace

uint32_t pages_to_carry(const WaveWork& wave, const AttendSpeeds& speeds, uint32_t room) {
  const uint32_t most = std::min(wave.pages, room);
  if (most == 0 || speeds.link <= 0) return 0;
  if (speeds.host <= 0) return most;
  const double up = wave.page_bytes / speeds.link + seconds(wave.page_work, speeds.device);
  const double here = wave.page_work / speeds.host;
  const double device_anyway = seconds(wave.device_work, speeds.device);
  const double all_here = wave.pages * here;
  const auto end = [&](uint32_t x) {
    const double device = device_anyway + (x > 0 ? kCarrySeconds + x * up : 0);
    return std::max(device, all_here - x * here);
  };
  // Where both would end at the same time; one of its neighbours is the best whole number.
  const double even = (all_here - device_anyway - kCarrySeconds) / (up + here);
  auto best = static_cast<uint32_t>(std::clamp(even, 0.0, static_cast<double>(most)));
  if (best < most && end(best + 1) < end(best)) ++best;
  return end(best) < end(0) ? best : 0;
}

SpeedMeter::SpeedMeter(double configured, double assumed)
    : fixed_(configured > 0), speed_(fixed_ ? configured : assumed) {}

void SpeedMeter::add(double work, double seconds) {
  if (fixed_ || work <= 0 || seconds <= 0) return;
  const double share = observed_ ? kNewShare : 1;
  observed_ = true;
  // A mean of times, so that one slow wave counts as the time it took.
  speed_ = 1 / ((1 - share) / speed_ + share * seconds / work);
}

}  // namespace quire
