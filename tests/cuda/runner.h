// Where the tests of the kernels run: on the emulator, or, built by nvcc with QUIRE_CUDA_DEVICE, on a GPU.
#pragma once

#include "tests/emu/device_array.h"

#if defined(QUIRE_CUDA_DEVICE)

#include <cstdio>
#include <string>

namespace quire::cuda::test {

class CudaTest : public testing::Test {
 protected:
  // A device has schedules of its own: a few tries, each of which may meet another.
  template <typename Body>
  void for_all_schedules(Body body) {
    constexpr int kTries = 5;
    for (int i = 0; i < kTries; ++i) body();
  }
  // Whether the device has the matrix instructions of four warps.
  static bool has_warpgroups() {
    int major = 0;
    EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    if (major != 9)
      std::printf("[left out] kernels for compute capability 9.0: this device has %d.x\n", major);
    return major == 9;
  }
};
inline std::string last_failure() { return cudaGetErrorString(cudaGetLastError()); }

}  // namespace quire::cuda::test

#else

#include "tests/emu/testing.h"

namespace quire::cuda::test {

class CudaTest : public emu::test::EmuTest {
 protected:
  static bool has_warpgroups() {
    emu::settings().capability = 9;
    return true;
  }
};
inline auto last_failure() { return emu::last_failure(); }

}  // namespace quire::cuda::test

#endif
