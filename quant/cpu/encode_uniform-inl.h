// Encoding of the uniform codecs: keys have a scale and a midpoint per channel, values per token.
// FORMATS.md orders every operation; nothing here may be fused or reassociated. Thread safety: pure
// functions.
#pragma once

#include <cstring>

#include "quant/cpu/group_halves-inl.h"
#include "quant/cpu/pack-inl.h"
#include "quant/kernels.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// What turns x' into a code: code = rne((x' - mid) * inverse + centre) within 0 .. top.
struct Group {
  Floats mid;
  Floats inverse;
};

HWY_INLINE Group stored_group(const uint16_t* scales, const uint16_t* mids) {
  const Floats scale = load_f16(scales);
  const Floats inverse = select(splat(0.0F) < scale, splat(1.0F) / scale, splat(0.0F));
  return {load_f16(mids), inverse};
}

HWY_INLINE Ints uniform_code(Floats x, const Group& group, Floats centre, Floats top) {
  const Floats at = (x - group.mid) * group.inverse + centre;
  return to_ints(max(min(at, top), splat(0.0F)));  // clamping to integers first leaves the rounding the same
}

inline void encode_uniform_keys(uint32_t bits, SectionShape shape, const float* x, uint32_t first,
                                Floats down, uint8_t* meta, uint8_t* code_rows) {
  uint16_t* scales = reinterpret_cast<uint16_t*>(meta);
  uint16_t* mids = scales + shape.dim;
  const Floats top = splat(static_cast<float>((1U << bits) - 1));
  const Floats centre = top * splat(0.5F);
  const size_t section = size_t{shape.tokens} * shape.dim;
  size_t behind = 0;  // line by line, as memory has it
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    Floats low = load(x + size_t{first} * shape.dim + c) * down;
    Floats high = low;
    for (uint32_t t = first + 1; t < shape.tokens; ++t) {
      const Floats v = load(x + size_t{t} * shape.dim + c) * down;
      low = min(low, v);
      high = max(high, v);
    }
    store_half((high - low) / top, scales + c);
    store_half((low + high) * splat(0.5F), mids + c);
    const Group group = stored_group(scales + c, mids + c);
    for (uint32_t t = first; t < shape.tokens; ++t) {
      const size_t at = size_t{t} * shape.dim + c;
      prefetch_behind(x, section, behind);
      behind += kLanes;
      store_low_bytes(uniform_code(load(x + at) * down, group, centre, top), code_rows + at);
    }
  }
}

inline void encode_uniform_values(uint32_t bits, SectionShape shape, const float* x, uint32_t first,
                                  Floats down, uint8_t* meta, uint8_t* code_rows) {
  uint16_t* scales = reinterpret_cast<uint16_t*>(meta);
  uint16_t* mids = scales + shape.tokens;
  const Floats top = splat(static_cast<float>((1U << bits) - 1));
  const Floats centre = splat(static_cast<float>(1U << (bits - 1)));
  alignas(64) float low_of[kMaxTokens] = {};
  alignas(64) float high_of[kMaxTokens] = {};
  for (uint32_t t = first; t < shape.tokens; ++t) {
    const float* row = x + size_t{t} * shape.dim;
    Floats low = load(row) * down;
    Floats high = low;
    for (uint32_t c = kLanes; c < shape.dim; c += kLanes) {
      const Floats v = load(row + c) * down;
      low = min(low, v);
      high = max(high, v);
    }
    low_of[t] = smallest_lane(low);
    high_of[t] = largest_lane(high);
  }
  // Tokens that are left out have low = high = 0 and so store zeros.
  for (uint32_t t = 0; t < shape.tokens; t += kLanes) {
    const Floats low = load(low_of + t);
    store_half((load(high_of + t) - low) / top, scales + t);
    store_half(low + load_f16(scales + t) * centre, mids + t);
  }
  for (uint32_t t = first; t < shape.tokens; ++t) {
    const float scale = f16_to_f32(scales[t]);
    const Group group{splat(f16_to_f32(mids[t])), splat(scale > 0.0F ? 1.0F / scale : 0.0F)};
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const size_t at = size_t{t} * shape.dim + c;
      prefetch_behind(x, size_t{shape.tokens} * shape.dim, at);
      store_low_bytes(uniform_code(load(x + at) * down, group, centre, top), code_rows + at);
    }
  }
}

inline void encode_uniform(Side side, const CodecInfo& codec, SectionShape shape, const float* x,
                           uint32_t first, uint8_t* codes, uint8_t* meta, uint32_t* param) {
  alignas(64) uint8_t code_rows[kMaxCodes];
  const size_t left_out = size_t{first} * shape.dim;
  const float largest = largest_input(x + left_out, size_t{shape.tokens} * shape.dim - left_out);
  const int exponent = section_exponent(largest);
  const Floats down = splat(power_of_two(-exponent));
  std::memset(code_rows, 0, left_out);
  if (first == shape.tokens) {
    std::memset(meta, 0, meta_bytes(codec, side, shape));
  } else if (side == Side::kKey) {
    encode_uniform_keys(codec.bits, shape, x, first, down, meta, code_rows);
  } else {
    encode_uniform_values(codec.bits, shape, x, first, down, meta, code_rows);
  }
  pack_codes(side, codec.bits, shape, code_rows, codes);
  *param = static_cast<uint32_t>(exponent);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
