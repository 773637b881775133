// Means of channels as rotated and trellis codecs store them: codes of eight bits, times a step that the side
// of a section has. All arithmetic is FORMATS.md's (built with --fmad=false).
#pragma once

#include "quant/cuda/numbers.cuh"

namespace quire::cuda {

inline constexpr float kNegligible = 0x1p-60F;

// mean: [dim] in shared memory, each thread's channels its own, from threadIdx.x on in steps of the block;
// largest: the largest magnitude of all. They become what a reader has; writes their codes, returns their
// step M. Called by all threads of a block.
__device__ __forceinline__ int code_means(uint32_t dim, float largest, float* mean, uint8_t* codes) {
  constexpr int kLastMeanCode = 127;
  const bool negligible = largest < kNegligible;
  const int step = negligible ? 0 : device_ceil_step(__fdiv_rn(largest, static_cast<float>(kLastMeanCode)));
  const float value = negligible ? 0.0F : device_step_value(step);
  for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x) {
    int code = 0;
    if (!negligible) code = __float2int_rn(__fdiv_rn(mean[c], value));
    code = min(max(code, -kLastMeanCode), kLastMeanCode);
    mean[c] = negligible ? 0.0F : __fmul_rn(static_cast<float>(code), value);
    codes[c] = static_cast<uint8_t>(code);
  }
  __syncthreads();
  return step;
}

}  // namespace quire::cuda
