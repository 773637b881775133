// main of the tests that run on a GPU: without one they fail instead of being skipped.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::fprintf(stderr, "%s: there is no GPU on this machine (%s); run it where nvidia-smi lists one\n",
                 argv[0], cudaGetErrorString(error));
    return 1;
  }
  return RUN_ALL_TESTS();
}
