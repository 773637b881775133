// Floats as operands of bf16 matrix instructions: f32 in two parts each. Rows along the reduction axis stand
// in pairs.
#pragma once

#include "quant/cuda/operands.cuh"

namespace quire::cuda {

// Two rows' worth of pairs for each n-tile; of f32 also what bf16 leaves out.
struct FloatOperands {
  uint32_t b[4][2];
  uint32_t rest[4][2];
};

__device__ __forceinline__ void split_to(float x0, float x1, float x2, float x3, uint32_t (&a)[4]) {
  const SplitPair first = split_pair(x0, x1);
  const SplitPair second = split_pair(x2, x3);
  a[0] = first.high;
  a[1] = first.low;
  a[2] = second.high;
  a[3] = second.low;
}

// Rows `row` .. + 3 along the reduction, lanes `lane` .. + 3.
template <CodecId kId>
__device__ __forceinline__ void load_floats(const uint8_t* codes, uint32_t row, uint32_t lanes, uint32_t lane,
                                            FloatOperands& out) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const uint32_t at = row + 2 * static_cast<uint32_t>(pair);
    if constexpr (kId == CodecId::kBf16) {
      const uint4 words = load_words(codes, at / 2, lanes, lane);
      const uint32_t four[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int t = 0; t < 4; ++t) out.b[t][pair] = four[t];
    } else {
      const auto even = load_as<float4>(codes + (size_t{at} * lanes + lane) * 4);
      const auto odd = load_as<float4>(codes + (size_t{at + 1} * lanes + lane) * 4);
      const float evens[4] = {even.x, even.y, even.z, even.w};
      const float odds[4] = {odd.x, odd.y, odd.z, odd.w};
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const SplitPair split = split_pair(evens[t], odds[t]);
        out.b[t][pair] = split.high;
        out.rest[t][pair] = split.low;
      }
    }
  }
}

template <CodecId kId>
__device__ __forceinline__ void multiply_floats(float (&sums)[4][4], const uint32_t (&a)[4],
                                                const FloatOperands& operands) {
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    mma_bf16(sums[t], a, operands.b[t]);
    if constexpr (kId == CodecId::kF32) mma_bf16(sums[t], a, operands.rest[t]);
  }
}
}  // namespace quire::cuda
