// Where the tests of the kernels run: on the emulator, or, built by nvcc with QUIRE_CUDA_DEVICE, on a GPU.
#pragma once

#include "tests/emu/device_array.h"

#if defined(QUIRE_CUDA_DEVICE)

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
};
inline std::string last_failure() { return cudaGetErrorString(cudaGetLastError()); }

}  // namespace quire::cuda::test

#else

#include "tests/emu/testing.h"

namespace quire::cuda::test {

using CudaTest = emu::test::EmuTest;
inline auto last_failure() { return emu::last_failure(); }

}  // namespace quire::cuda::test

#endif
