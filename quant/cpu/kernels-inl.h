// The table of one instruction set. Included once each by avx2.cc, avx512.cc and neon.cc. Thread safety:
// constants.
#pragma once

#include "quant/cpu/attend-inl.h"
#include "quant/cpu/convert-inl.h"
#include "quant/cpu/decode-inl.h"
#include "quant/cpu/digest-inl.h"
#include "quant/cpu/encode_nonuniform-inl.h"
#include "quant/cpu/encode_rotated-inl.h"
#include "quant/cpu/encode_trellis-inl.h"
#include "quant/cpu/encode_uniform-inl.h"
#include "quant/cpu/make_digest-inl.h"
#include "quant/cpu/state-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline void encode_side(Side side, SideCodec side_codec, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta, uint32_t* param) {
  const CodecInfo& codec = *find_codec(side_codec.id);
  switch (codec.family) {
    case CodecFamily::kFloat:
      return encode_floats(side, codec, shape, x, first, codes, param);
    case CodecFamily::kUniform:
      return encode_uniform(side, codec, shape, x, first, codes, meta, param);
    case CodecFamily::kRotated:
      return with_table_bits(
          codec.bits, [&](auto bits) { encode_rotated<bits()>(side, shape, x, first, codes, meta, param); });
    case CodecFamily::kTrellis:
      return with_form(codec, [&](auto form) {
        if constexpr (form().trellis) encode_trellis<form().bits>(side, shape, x, first, codes, meta, param);
      });
    case CodecFamily::kNonUniform:
      return with_table_bits(codec.bits, [&](auto bits) {
        encode_nonuniform<bits()>(side, codec, shape, side_codec.levels, x, first, codes, meta, param);
      });
  }
}

inline void encode_key(SideCodec codec, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                       uint8_t* meta, uint32_t* param) {
  encode_side(Side::kKey, codec, shape, x, first, codes, meta, param);
}
inline void encode_value(SideCodec codec, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                         uint8_t* meta, uint32_t* param) {
  encode_side(Side::kValue, codec, shape, x, first, codes, meta, param);
}
inline void decode_key(SideCodec codec, SectionShape shape, const SideView& side, float* out) {
  decode_side(Side::kKey, codec, shape, side, out);
}
inline void decode_value(SideCodec codec, SectionShape shape, const SideView& side, float* out) {
  decode_side(Side::kValue, codec, shape, side, out);
}

inline constexpr Kernels kernels_of(Isa isa) {
  return {.isa = isa,
          .encode_key = &encode_key,
          .encode_value = &encode_value,
          .decode_key = &decode_key,
          .decode_value = &decode_value,
          .finite = &all_finite,
          .bf16_to_f32 = &convert_bf16_to_f32,
          .f16_to_f32 = &convert_f16_to_f32,
          .f32_to_bf16 = &convert_f32_to_bf16,
          .rotate = &rotate_rows,
          .attend_scratch_bytes = &tile_bytes,
          .attend_folded = &attend_folded,
          .attend_unfolded = &attend_unfolded,
          .merge = &merge_states,
          .finish = &finish_state,
          .make_digest = &make_digest,
          .score_digests = &score_digests};
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
