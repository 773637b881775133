// Means of the channels of a section whose values are in registers (encode_registers.cuh), as rotated and
// trellis codecs store them. They sum over tokens in their order, by way of shared memory.
#pragma once

#include "quant/cuda/encode_registers.cuh"
#include "quant/cuda/mean_codes.cuh"

namespace quire::cuda::registers {

// Sums over the valid tokens, in their order, of every channel. rows: [tokens][row_floats] in shared memory.
// sums: [dim].
template <int kSixteens>
__device__ __forceinline__ void sum_channels(const Job& job, const Values<kSixteens>& values, float* rows,
                                             float* sums) {
  constexpr uint32_t kDim = 16 * kSixteens;
  constexpr uint32_t kStride = row_floats(kDim);
  store_row(job, values, rows);
  __syncthreads();
  for (uint32_t c = threadIdx.x; c < kDim; c += blockDim.x) {
    float sum = job.first < job.shape.tokens ? rows[size_t{job.first} * kStride + c] : 0.0F;
#pragma unroll 8
    for (uint32_t t = job.first + 1; t < job.shape.tokens; ++t)
      sum = __fadd_rn(sum, rows[size_t{t} * kStride + c]);
    sums[c] = sum;
  }
}

// Sums become the means that a reader has; writes their codes, returns their step M.
__device__ __forceinline__ int fold_means(const Job& job, float* mean) {
  const uint32_t valid = job.shape.tokens - job.first;
  const float share = valid > 0 ? __fdiv_rn(1.0F, static_cast<float>(valid)) : 0.0F;
  float largest = 0.0F;
  __syncthreads();
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += blockDim.x) {
    mean[c] = __fmul_rn(mean[c], share);
    largest = fmaxf(largest, fabsf(mean[c]));
  }
  largest = block_max(largest, job.scratch);
  return code_means(job.shape.dim, largest, mean, job.meta + job.shape.tokens);
}

}  // namespace quire::cuda::registers
