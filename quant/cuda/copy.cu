// Pages from place to place: a block copies page after page, 16 bytes a thread, several loads under way in
// each.
#include "quant/cuda/gpu.h"
#include "quant/cuda/launch.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kAtOnce = 8;  // loads of a thread under way
constexpr uint32_t kBlocks =
    64;  // enough for a link to the host, which leaves most multiprocessors to others

__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ CopyArgs args) {
  constexpr uint32_t kStep = 16 * kThreads;
  for (uint32_t page = blockIdx.x; page < args.count; page += gridDim.x) {
    const PageCopy copy = args.pages[page];
    for (uint32_t start = 16 * threadIdx.x; start < args.bytes; start += kStep * kAtOnce) {
      uint4 words[kAtOnce];
#pragma unroll
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        if (start + i * kStep < args.bytes) words[i] = load_as<uint4>(copy.from + start + size_t{i} * kStep);
      }
#pragma unroll
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        if (start + i * kStep < args.bytes) store_as<uint4>(copy.to + start + size_t{i} * kStep, words[i]);
      }
    }
  }
}

}  // namespace

cudaError_t copy_pages(const CopyArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  return launch({args.count < kBlocks ? args.count : kBlocks, kThreads, 0, stream}, copy_kernel, args);
}

}  // namespace quire::cuda
