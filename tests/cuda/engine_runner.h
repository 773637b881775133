// Where the tests of the whole engine run: over the emulator's device, or, built with QUIRE_CUDA_DEVICE, over
// a GPU. Thread safety: as the tests', none.
#pragma once

#include <gtest/gtest.h>

#include "kvcache/page_device_cuda.h"
#include "tests/support/engine_world.h"

#if !defined(QUIRE_CUDA_DEVICE)
#include "tests/emu/control.h"
#endif

namespace quire::testing {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

#if defined(QUIRE_CUDA_DEVICE)

class CudaEngine : public ::testing::Test {
 protected:
  // A GPU does not tell how many there were.
  class Launches {
   public:
    void expect_more_than(uint64_t /*count*/) const {}
  };
};

#else

// Leaves settings and errors as they were; no engine may leave memory of the device behind.
class CudaEngine : public ::testing::Test {
 protected:
  void TearDown() override {
    emu::settings() = {};
    emu::reset_errors();
    EXPECT_EQ(emu::counters().allocations, 0U);
  }
  // Of kernels, from here on.
  class Launches {
   public:
    void expect_more_than(uint64_t count) const { EXPECT_GT(emu::counters().launches, before_ + count); }

   private:
    uint64_t before_ = emu::counters().launches;
  };
};

#endif

inline Result<std::unique_ptr<Engine>> try_open_on_device(const World& world) {
  EngineOptions options = engine_options(world);
  options.open_page_device = [](const PageDeviceSetup& setup) { return create_cuda_page_device(setup); };
  return Engine::open(std::move(options));
}

// Fails the test when it does not open.
inline std::unique_ptr<Engine> open_on_device(const World& world) {
  Result<std::unique_ptr<Engine>> engine = try_open_on_device(world);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

}  // namespace quire::testing
