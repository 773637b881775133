// The digest of a section's keys by one block: quant/digest.cc's make_digest (built with --fmad=false).
#pragma once

#include "quant/cuda/numbers.cuh"

namespace quire::cuda {

// The next float above x, as quant/digest.cc rounds bounds.
__device__ __forceinline__ float round_up(double x) {
  constexpr float kLargest = 3.40282347e+38F;
  if (x >= static_cast<double>(kLargest)) return kLargest;
  return nextafterf(static_cast<float>(fmax(x, -static_cast<double>(kLargest))), kLargest);
}

// keys: [tokens][dim] in global memory. scratch: [32] in shared memory. The block has at least 32 threads;
// all of them take part.
__device__ __forceinline__ void fold_digest(const float* keys, uint32_t tokens, uint32_t dim, uint8_t* digest,
                                            float* scratch) {
  constexpr double kMeanSteps = 127;
  float largest = 0.0F;
  for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x) {
    for (uint32_t t = 0; t < tokens; ++t) largest = fmaxf(largest, fabsf(keys[size_t{t} * dim + c]));
  }
  largest = block_max(largest, scratch);
  const float grid = largest == 0.0F ? 0.0F : round_up(static_cast<double>(largest) / kMeanSteps);
  const double steps = grid == 0.0F ? 0.0 : 1.0 / static_cast<double>(grid);
  int magnitude = 0;
  for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x) {
    float low = keys[c];
    float high = low;
    double sum = 0;
#pragma unroll 8
    for (uint32_t t = 0; t < tokens; ++t) {
      const float key = keys[size_t{t} * dim + c];
      low = fminf(low, key);
      high = fmaxf(high, key);
      sum += static_cast<double>(key);
    }
    const double middle = rint(sum / tokens * steps);
    const double above = static_cast<double>(high) * steps - middle;
    const double below = middle - static_cast<double>(low) * steps;
    const double reach = ceil(fmax(above, below) + 1e-9);
    const int radius = largest == 0.0F ? 0 : static_cast<int>(reach);
    digest[8 + c] = static_cast<uint8_t>(static_cast<int>(middle));
    digest[8 + dim + c] = static_cast<uint8_t>(radius);
    magnitude += abs(static_cast<int>(middle)) + radius;
  }
  magnitude = block_reduce(magnitude, reinterpret_cast<int*>(scratch), SumOf{});
  if (threadIdx.x != 0) return;
  store_as<float>(digest, grid);
  store_as<float>(digest + 4, round_up(static_cast<double>(magnitude) * static_cast<double>(grid)));
}

}  // namespace quire::cuda
