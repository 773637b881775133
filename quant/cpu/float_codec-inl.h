// The float codecs f32 and bf16. f32: keys [dim][tokens], values [tokens][dim]; bf16: pairs along the
// reduction axis. f32, and what is decoded, is a yardstick and not fast. Thread safety: pure functions.
#pragma once

#include <cstring>

#include "quant/bytes.h"
#include "quant/codec.h"
#include "quant/cpu/convert-inl.h"
#include "quant/cpu/pack-inl.h"
#include "quant/cpu/transpose-inl.h"
#include "quant/dot_quad.h"
#include "quant/half.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Keys: the channels of a token are pairs already, which go to the token's lane.
inline void encode_bf16_keys(SectionShape shape, const float* x, uint32_t first, uint8_t* codes) {
  alignas(64) uint16_t rows[4][kMaxDim] = {};
  for (uint32_t t = first / 4 * 4; t < shape.tokens; t += 4) {
    for (uint32_t i = t < first ? first - t : 0; i < 4; ++i) {
      for (uint32_t c = 0; c < shape.dim; c += kLanes) {
        const float* at = x + size_t{t + i} * shape.dim + c;
        prefetch(at + kInputAhead);
        store_u16(finite_to_bf16(load(at)), rows[i] + c);
      }
    }
    transpose(rows, kMaxDim / 2, 4, shape.dim / 2, codes + size_t{4} * t, shape.tokens);
  }
}

// Values: a pair is two tokens.
inline void encode_bf16_values(SectionShape shape, const float* x, uint32_t first, uint8_t* codes) {
  for (uint32_t t = first / 2 * 2; t < shape.tokens; t += 2) {
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const float* at = x + size_t{t} * shape.dim + c;
      prefetch(at + kInputAhead);
      prefetch(at + shape.dim + kInputAhead);
      const Ints even = t < first ? splat(0) : finite_to_bf16(load(at));
      const Ints pair = even | shift_left(finite_to_bf16(load(at + shape.dim)), 16);
      store(pair, reinterpret_cast<int32_t*>(codes + (size_t{t / 2} * shape.dim + c) * 4));
    }
  }
}

inline void encode_floats(Side side, const CodecInfo& codec, SectionShape shape, const float* x,
                          uint32_t first, uint8_t* codes, uint32_t* param) {
  *param = 0;
  std::memset(codes, 0, code_bytes(codec, shape));
  if (codec.bits == 16) {
    return side == Side::kKey ? encode_bf16_keys(shape, x, first, codes)
                              : encode_bf16_values(shape, x, first, codes);
  }
  for (uint32_t t = first; t < shape.tokens; ++t) {
    for (uint32_t c = 0; c < shape.dim; ++c) {
      store_le(codes + 4 * float_index(side, shape, codec.bits, t, c), x[size_t{t} * shape.dim + c]);
    }
  }
}

// Keys to rows of words: of bf16 a word is a pair of channels.
inline void decode_bf16_keys(SectionShape shape, const uint8_t* codes, float* out) {
  alignas(64) uint16_t rows[4][kMaxDim];
  for (uint32_t t = 0; t < shape.tokens; t += 4) {
    transpose(codes + size_t{4} * t, shape.tokens, shape.dim / 2, 4, rows, kMaxDim / 2);
    for (uint32_t i = 0; i < 4; ++i) convert_bf16_to_f32(rows[i], shape.dim, out + size_t{t + i} * shape.dim);
  }
}
inline void decode_f32_keys(SectionShape shape, const uint8_t* codes, float* out) {
  for (uint32_t t = 0; t < shape.tokens; t += 4) {
    transpose(codes + size_t{4} * t, shape.tokens, shape.dim, 4, out + size_t{t} * shape.dim, shape.dim);
  }
}

inline void decode_floats(Side side, const CodecInfo& codec, SectionShape shape, const uint8_t* codes,
                          float* out) {
  if (side == Side::kKey) {
    return codec.bits == 16 ? decode_bf16_keys(shape, codes, out) : decode_f32_keys(shape, codes, out);
  }
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
