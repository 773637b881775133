#include "bench/gpu/memory.h"

#include <cstdio>
#include <cstdlib>

namespace quire::gpu {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "quire-gpu: %s failed: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

namespace detail {

void* allocate_device(size_t bytes) {
  void* memory = nullptr;
  require(cudaMalloc(&memory, bytes), "taking device memory");
  return memory;
}
void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  require(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), "pinning host memory");
  return memory;
}
void copy_bytes(void* to, const void* from, size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "copying between host and device");
  // A copy from pageable memory may still be under way; work in other streams does not wait for it.
  require(cudaDeviceSynchronize(), "copying between host and device");
}

}  // namespace detail
}  // namespace quire::gpu
