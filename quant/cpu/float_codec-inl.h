// The float codecs f32 and bf16. f32: keys [dim][tokens], values [tokens][dim]; bf16: pairs along the
// reduction axis. Not fast: they are a yardstick. Thread safety: pure functions.
#pragma once

#include <cstring>

#include "quant/bytes.h"
#include "quant/codec.h"
#include "quant/cpu/lanes-inl.h"
#include "quant/dot_quad.h"
#include "quant/half.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline void encode_floats(Side side, const CodecInfo& codec, SectionShape shape, const float* x,
                          uint32_t first, uint8_t* codes, uint32_t* param) {
  *param = 0;
  std::memset(codes, 0, code_bytes(codec, shape));
  for (uint32_t t = first; t < shape.tokens; ++t) {
    for (uint32_t c = 0; c < shape.dim; ++c) {
      const size_t at = float_index(side, shape, codec.bits, t, c);
      const float value = x[size_t{t} * shape.dim + c];
      if (codec.bits == 32)
        store_le(codes + 4 * at, value);
      else
        store_le(codes + 2 * at, f32_to_bf16(value));
    }
  }
}

inline void decode_floats(Side side, const CodecInfo& codec, SectionShape shape, const uint8_t* codes,
                          float* out) {
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    for (uint32_t c = 0; c < shape.dim; ++c) {
      const size_t at = float_index(side, shape, codec.bits, t, c);
      out[size_t{t} * shape.dim + c] =
          codec.bits == 32 ? load_le<float>(codes + 4 * at) : bf16_to_f32(load_le<uint16_t>(codes + 2 * at));
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
