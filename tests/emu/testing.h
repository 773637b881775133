// Launching small kernels from tests, under every schedule.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "quant/cuda/gpu.h"
#include "tests/emu/control.h"
#include "tests/emu/device_array.h"

namespace emu::test {

using quire::cuda::launch;
using quire::cuda::LaunchShape;

struct ScheduleCase {
  Schedule schedule;
  uint64_t seed;
};
#if defined(__SANITIZE_THREAD__)
// Sees every race under any schedule, slowly.
inline constexpr std::array<ScheduleCase, 2> kSchedules{{{Schedule::kInOrder, 1}, {Schedule::kGreedy, 1}}};
#else
inline constexpr std::array<ScheduleCase, 7> kSchedules{{{Schedule::kInOrder, 1},
                                                         {Schedule::kReverse, 1},
                                                         {Schedule::kRandom, 1},
                                                         {Schedule::kRandom, 2},
                                                         {Schedule::kGreedy, 1},
                                                         {Schedule::kGreedy, 2},
                                                         {Schedule::kGreedy, 3}}};
#endif

// Leaves settings and errors as they were.
class EmuTest : public testing::Test {
 protected:
  void TearDown() override {
    settings() = {};
    reset_errors();
  }
  template <typename Body>
  void for_all_schedules(Body body) {
    for (const ScheduleCase& c : kSchedules) {
      settings().schedule = c.schedule;
      settings().seed = c.seed;
      SCOPED_TRACE("schedule " + std::to_string(static_cast<int>(c.schedule)) + ", seed " +
                   std::to_string(c.seed));
      body();
    }
  }
};

}  // namespace emu::test
