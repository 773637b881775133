// Scales of the tokens of a trellis codec as stored: scale_code.h's encode_scales by a block.
#pragma once

#include "quant/cuda/numbers.cuh"
#include "quant/scale_code.h"

namespace quire::cuda {

// scales: [tokens] in shared memory, 0 where a token has none; codes: [tokens]. `exponent` is added to the
// range. Called by all threads of a block.
__device__ __forceinline__ ScaleRange code_scales(uint32_t tokens, const float* scales, int exponent,
                                                  uint8_t* codes, float* scratch) {
  constexpr int kLastScaleCode = 255;
  float largest = 0.0F;
  float inverse_order = 0.0F;  // the largest bit pattern below that of infinity, less a scale's
  for (uint32_t t = threadIdx.x; t < tokens; t += blockDim.x) {
    const float scale = scales[t];
    if (scale == 0.0F) continue;
    largest = fmaxf(largest, scale);
    inverse_order = fmaxf(inverse_order, __uint_as_float(0x7F7FFFFFU - __float_as_uint(scale)));
  }
  largest = block_max(largest, scratch);
  inverse_order = block_max(inverse_order, scratch);
  ScaleRange range{0, kFewestMantissaBits};
  int top = 0;
  if (largest > 0.0F) {
    const float smallest = __uint_as_float(0x7F7FFFFFU - __float_as_uint(inverse_order));
    uint32_t bits = kMostMantissaBits;
    while (bits > kFewestMantissaBits &&
           round_to_place(largest, bits) - round_to_place(smallest, bits) >= kLastScaleCode) {
      --bits;
    }
    top = round_to_place(largest, bits);
    range = {widen_place(top, bits), bits};
  }
  for (uint32_t t = threadIdx.x; t < tokens; t += blockDim.x) {
    int code = 0;
    if (scales[t] > 0.0F) {
      code = max(round_to_place(scales[t], range.mantissa_bits) - top + kLastScaleCode, 0);
    }
    codes[t] = static_cast<uint8_t>(code);
  }
  range.largest += exponent * (1 << kMostMantissaBits);
  return range;
}

}  // namespace quire::cuda
