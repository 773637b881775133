// A case and its floor, timed in turns: within a round the plain read, the bursts of multiply-accumulates and
// the case follow each other, so that whatever else the machine does hits all of them alike.
//
//   floor = max(plain read of the same bytes, multiply-accumulates / measured peak), same threads
//
// Thread safety: one thread measures at a time.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "bench/micro/mac_peak.h"
#include "bench/micro/measurement.h"
#include "bench/micro/plain_read.h"
#include "bench/micro/team.h"

namespace quire::micro {

using MacCounts = std::array<double, kMacKinds>;  // by Mac

struct TimedCase {
  Row row;  // what is measured; the figures are still to come
  Isa isa;
  std::span<const uint8_t> memory;            // what the plain read reads: the bytes of the case
  MacCounts macs{};                           // of the whole case
  std::function<void(uint32_t thread)> work;  // row.sampled of the case
  std::shared_ptr<const void> owner;          // keeps alive what `work` and `memory` refer to
};

class TimedMeasurement final : public Measurement {
 public:
  // Warms everything up.
  TimedMeasurement(TimedCase timed, Team& team);

  double round() override;
  Row row() const override;

 private:
  struct Round {
    Lap read;
    double mac_seconds;
    Lap work;
  };

  double mac_seconds() const;
  Spread spread(const std::function<double(const Round&)>& value) const;

  TimedCase timed_;
  Team& team_;
  PlainRead read_;
  std::vector<Round> rounds_;
};

}  // namespace quire::micro
