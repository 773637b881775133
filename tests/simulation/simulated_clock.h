// A clock that stands still until somebody moves it, and that can be set wrong.
//
// elapsed() is how much time has really passed in the simulation; now() is what the clock shows, which a jump
// puts off forwards or backwards. Thread safety: one thread.
#pragma once

#include <algorithm>

#include "kvcache/clock.h"

namespace quire::testing {

class SimulatedClock final : public Clock {
 public:
  Nanoseconds now() const override { return elapsed_ + offset_; }
  Nanoseconds elapsed() const { return elapsed_; }
  void advance(Nanoseconds by) { elapsed_ += std::max(by, Nanoseconds::zero()); }
  // Never below zero: clocks count up from some start.
  void jump(Nanoseconds by) { offset_ = std::max(offset_ + by, -elapsed_); }

 private:
  Nanoseconds elapsed_ = std::chrono::hours(1);
  Nanoseconds offset_{};
};

}  // namespace quire::testing
