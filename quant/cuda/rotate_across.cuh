// The rotation of rows that lie in registers of neighbouring threads.
#pragma once

#include "quant/cuda/gpu.h"

namespace quire::cuda {

// H x without its norm (FORMATS.md, Rotation), of a row that kLanes neighbouring threads hold, kValues
// channels each. Which of a channel's bits choose the thread and which the value does not matter: there is a
// butterfly for each.
template <uint32_t kLanes, int kValues>
__device__ __forceinline__ void rotate_across(float (&x)[kValues]) {
#pragma unroll
  for (int h = 1; h < kValues; h *= 2) {
#pragma unroll
    for (int k = 0; k < kValues; ++k) {
      if ((k & h) != 0) continue;
      const float low = x[k];
      const float high = x[k | h];
      x[k] = low + high;
      x[k | h] = low - high;
    }
  }
#pragma unroll
  for (uint32_t h = 1; h < kLanes; h *= 2) {
    const float sign = (threadIdx.x & h) == 0 ? 1.0F : -1.0F;
#pragma unroll
    for (int k = 0; k < kValues; ++k)
      x[k] = fmaf(x[k], sign, __shfl_xor_sync(kAllLanes, x[k], static_cast<int>(h)));
  }
}
template <int kValues>
__device__ __forceinline__ float largest_magnitude(const float (&x)[kValues]) {
  float largest = fabsf(x[0]);
#pragma unroll
  for (int k = 1; k < kValues; ++k) largest = fmaxf(largest, fabsf(x[k]));
  return largest;
}

}  // namespace quire::cuda
