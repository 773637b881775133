// Codes back to f32, exactly as FORMATS.md orders the arithmetic. Thread safety: pure functions.
#pragma once

#include "quant/cpu/float_codec-inl.h"
#include "quant/cpu/level_codes-inl.h"
#include "quant/cpu/pack-inl.h"
#include "quant/kernels.h"
#include "quant/levels.h"
#include "quant/nuq_levels.h"
#include "quant/scale_code.h"
#include "quant/steps.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline void decode_rotated(const CodecInfo& codec, SectionShape shape, const SideView& side,
                           const uint8_t* codes, float* out) {
  alignas(64) float levels[kLanes] = {};
  alignas(64) float means[256];
  const auto table = level_table(codec.bits).levels;
  for (size_t i = 0; i < table.size(); ++i) levels[i] = static_cast<float>(table[i]);
  const int largest = static_cast<int16_t>(side.param & 0xFFFFU);
  const Floats step = splat(step_value(static_cast<int16_t>(side.param >> 16)));
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    store(to_floats(load_s8(side.meta + shape.tokens + c)) * step, means + c);
  }
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const uint8_t scale_code = side.meta[t];
    const Floats scale = splat(scale_code == 0 ? 0.0F : step_value(largest + scale_code - 255));
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const size_t at = size_t{t} * shape.dim + c;
      store(lookup(levels, load_u8(codes + at)) * scale + load(means + c), out + at);
    }
  }
}

// In place: codes [tokens][dim] to the levels that they have along the chains.
inline void levels_of_chains(const Trellis& trellis, Side side, SectionShape shape, uint8_t* codes) {
  const uint32_t chain = side == Side::kKey ? shape.dim : shape.tokens;
  const uint32_t lanes = side == Side::kKey ? shape.tokens : shape.dim;
  const size_t along = side == Side::kKey ? 1 : shape.dim;
  const size_t across = side == Side::kKey ? shape.dim : 1;
  uint32_t windows[kMaxDim] = {};
  const auto row_at = [&](uint32_t place) { return codes + chain_reduction(place, chain) * along; };
  for (uint32_t place = chain - trellis.window_bits; place < chain; ++place) {
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      windows[lane] = next_window(trellis, windows[lane], row_at(place)[lane * across]);
    }
  }
  for (uint32_t place = 0; place < chain; ++place) {
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      uint8_t& code = row_at(place)[lane * across];
      windows[lane] = next_window(trellis, windows[lane], code);
      code = static_cast<uint8_t>(trellis.levels[level_index(trellis, windows[lane], code)]);
    }
  }
}

inline void decode_trellis(SectionShape shape, const SideView& side, const uint8_t* levels, float* out) {
  alignas(64) float means[kMaxDim];
  const ScaleRange range = scale_range(side.param);
  const Floats step = splat(step_value(trellis_mean_step(side.param)));
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    store(to_floats(load_s8(side.meta + shape.tokens + c)) * step, means + c);
  }
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const Floats scale = splat(scale_of(range, side.meta[t]));
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const size_t at = size_t{t} * shape.dim + c;
      store(to_floats(load_s8(levels + at)) * scale + load(means + c), out + at);
    }
  }
}

// f(at, scale, mid) for sixteen channels of a token after the other: of keys a channel is a group, of values
// a token. scales: of all groups, their midpoints behind them.
template <class F>
HWY_INLINE void for_groups(Side side, SectionShape shape, const uint16_t* scales, F f) {
  if (side == Side::kKey) {
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const Floats scale = load_f16(scales + c);
      const Floats mid = load_f16(scales + shape.dim + c);
      for (uint32_t t = 0; t < shape.tokens; ++t) f(size_t{t} * shape.dim + c, scale, mid);
    }
    return;
  }
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const Floats scale = splat(f16_to_f32(scales[t]));
    const Floats mid = splat(f16_to_f32(scales[shape.tokens + t]));
    for (uint32_t c = 0; c < shape.dim; c += kLanes) f(size_t{t} * shape.dim + c, scale, mid);
  }
}

inline void decode_uniform(Side kind, const CodecInfo& codec, SectionShape shape, const SideView& side,
                           const uint8_t* codes, float* out) {
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(side.meta);
  const float top = static_cast<float>((1U << codec.bits) - 1);
  const Floats centre = splat(kind == Side::kKey ? top * 0.5F : static_cast<float>(1U << (codec.bits - 1)));
  const Floats factor = splat(power_of_two(static_cast<int32_t>(side.param)));
  for_groups(
      kind, shape, scales, [&](size_t at, Floats scale, Floats mid) __attribute__((always_inline)) {
        store(((to_floats(load_u8(codes + at)) - centre) * scale + mid) * factor, out + at);
      });
}

// Outliers are added before the section's factor: those values are folded a second time.
inline void decode_outliers(Side kind, SectionShape shape, const SideView& side, const int8_t* levels,
                            const uint8_t* codes, float* out) {
  const bool key = kind == Side::kKey;
  const uint32_t groups = key ? shape.dim : shape.tokens;
  const uint32_t lanes = key ? shape.tokens : shape.dim;
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(side.meta);
  const uint16_t* outliers = scales + size_t{2} * groups;
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    const uint32_t group = outlier_group(outliers[lane], groups);
    const size_t at = key ? size_t{lane} * groups + group : size_t{group} * lanes + lane;
    const float unit = f16_to_f32(scales[group]) * kNuqLevelUnit;
    const float folded = static_cast<float>(levels[codes[at]]) * unit + f16_to_f32(scales[groups + group]);
    const float rest = e5m2_to_f32(static_cast<uint8_t>(outliers[lane] >> 8));
    out[at] = (folded + rest) * power_of_two(static_cast<int32_t>(side.param));
  }
}

inline void decode_nonuniform(Side kind, const CodecInfo& codec, SectionShape shape, const int8_t* of_layer,
                              const SideView& side, const uint8_t* codes, float* out) {
  const int8_t* levels = nuq_levels(codec.bits, kind, of_layer);
  const LevelFloats table(codec.bits, levels);
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(side.meta);
  const Floats level_unit = splat(kNuqLevelUnit);
  const Floats factor = splat(power_of_two(static_cast<int32_t>(side.param)));
  for_groups(
      kind, shape, scales, [&](size_t at, Floats scale, Floats mid) __attribute__((always_inline)) {
        store((lookup(table.levels, load_u8(codes + at)) * (scale * level_unit) + mid) * factor, out + at);
      });
  if (codec.outliers) decode_outliers(kind, shape, side, levels, codes, out);
}

inline void decode_side(Side kind, SideCodec side_codec, SectionShape shape, const SideView& side,
                        float* out) {
  const CodecInfo& codec = *find_codec(side_codec.id);
  if (codec.family == CodecFamily::kFloat) return decode_floats(kind, codec, shape, side.codes, out);
  alignas(64) uint8_t codes[kMaxCodes];
  unpack_codes(kind, codec.bits, shape, side.codes, codes);
  if (codec.family == CodecFamily::kRotated) return decode_rotated(codec, shape, side, codes, out);
  if (codec.family == CodecFamily::kTrellis) {
    levels_of_chains(trellis_of(codec.bits), kind, shape, codes);
    return decode_trellis(shape, side, codes, out);
  }
  if (codec.family == CodecFamily::kNonUniform) {
    return decode_nonuniform(kind, codec, shape, side_codec.levels, side, codes, out);
  }
  decode_uniform(kind, codec, shape, side, codes, out);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
