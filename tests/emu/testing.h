// Launching small kernels from tests, under every schedule.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "quant/cuda/gpu.h"
#include "tests/emu/control.h"

namespace emu::test {

using quire::cuda::launch;
using quire::cuda::LaunchShape;

// An array of the device, freed at the end.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n) { EXPECT_EQ(cudaMalloc(&data_, n * sizeof(T)), cudaSuccess); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(n_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t n_;
};

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
