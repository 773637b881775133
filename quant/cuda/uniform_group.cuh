// A group of a uniform codec: what is stored of it and what codes are made with. FORMATS.md "Uniform codecs".
#pragma once

#include "quant/cuda/numbers.cuh"

namespace quire::cuda {

struct UniformGroup {
  uint16_t scale_bits;
  uint16_t mid_bits;
  float inverse;  // 1 / scale, or 0
  float mid;
};

__device__ __forceinline__ float uniform_centre(uint32_t bits, bool is_key) {
  const auto last = static_cast<float>((1U << bits) - 1);
  return is_key ? __fmul_rn(last, 0.5F) : static_cast<float>(1U << (bits - 1));
}

// low, high: the group's least and largest value.
__device__ __forceinline__ UniformGroup uniform_group(uint32_t bits, bool is_key, float low, float high) {
  const auto last = static_cast<float>((1U << bits) - 1);
  const uint32_t scale_bits = unsigned_zero_half(__fdiv_rn(__fsub_rn(high, low), last));
  const float scale = half_bits_to_float(scale_bits);
  const float exact_mid = is_key ? __fmul_rn(__fadd_rn(low, high), 0.5F)
                                 : __fadd_rn(low, __fmul_rn(scale, uniform_centre(bits, is_key)));
  const uint32_t mid_bits = unsigned_zero_half(exact_mid);
  return {static_cast<uint16_t>(scale_bits), static_cast<uint16_t>(mid_bits),
          scale > 0.0F ? __fdiv_rn(1.0F, scale) : 0.0F, half_bits_to_float(mid_bits)};
}

}  // namespace quire::cuda
