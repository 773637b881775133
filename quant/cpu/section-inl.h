// One section made ready for a call: where its arrays lie, and its scales and means as f32.
//
// Both families of integer codecs are brought to one form, so that the kernels know levels and not codecs:
//   key[t][c]   = key_factor * (channel_scale[c] * token_scale[t] * level + ..)    levels are signed bytes
//   value[t][c] = value_factor * (token_scale[t] * level + value_mid[t]) + value_offset[c]
// Uniform keys have channel scales and midpoints, which are folded into the query; rotated keys have token
// scales and a mean. Uniform values have token scales and midpoints, rotated values token scales and a mean.
// Thread safety: pure functions on the caller's memory.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "quant/bytes.h"
#include "quant/cpu/exp2-inl.h"
#include "quant/cpu/lanes-inl.h"
#include "quant/cpu/level_bytes-inl.h"
#include "quant/cpu/quad_dot-inl.h"
#include "quant/dot_quad.h"
#include "quant/kernels.h"
#include "quant/scale_code.h"
#include "quant/steps.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

struct Section {
  QuadSource key;
  QuadSource value;
  const uint8_t* key_means;  // rotated: codes of the mean
  float key_factor;
  float key_mean_step;
  float key_unit;    // uniform: a level's share of the stored channel scale, of the call
  float key_centre;  // uniform: what is to be added to every level, of the call
  float value_unit;  // uniform: a level's share of the stored token scale, of the call
  float value_factor;
  float* key_token_scale;            // [tokens]
  const uint16_t* key_scale_halves;  // [dim], uniform: as they are stored
  const uint16_t* key_mid_halves;    // [dim], uniform
  float* key_channel_scale;          // [dim], uniform: in units of levels, for keys that are turned
  float* key_channel_mid;            // [dim], uniform
  float* value_token_scale;          // [tokens]
  float* value_token_log2;  // [tokens]: log2 of these, within 2e-3; far below all others for a scale of 0
  float* value_mid;         // [tokens], uniform, in units of value_factor
  float* value_offset;      // [dim]: the mean, or null
  // Of codecs with outliers: key[t][key_outlier_channel[t]] += key_outlier[t], and values alike.
  int32_t* key_outlier_channel;  // [tokens]
  float* key_outlier;
  int32_t* value_outlier_token;  // [dim]
  float* value_outlier;
  LevelBytes* key_levels;  // of a layer that brings its own
  LevelBytes* value_levels;
};

// step(i - 255) for i = 0..15: sixteen more in the code of a scale are one more in the exponent.
inline constexpr std::array<float, kStepsPerOctave> kLowestScales = [] {
  std::array<float, kStepsPerOctave> scales{};
  for (int i = 0; i < kStepsPerOctave; ++i) scales[static_cast<size_t>(i)] = step_value(i - 255);
  return scales;
}();

// Scales of tokens relative to the section's largest: step(code - 255), 0 for code 0.
HWY_INLINE Floats relative_scales(Ints codes) {
  const Ints octaves = shift_left(codes & splat(0xF0), 23 - 4);
  const Floats scales = floats_from_bits(bits_of(lookup(kLowestScales.data(), codes)) + octaves);
  return select(codes == splat(0), splat(0.0F), scales);
}
HWY_INLINE Floats relative_log2(Ints codes) {
  constexpr float kOctave = 1.0F / kStepsPerOctave;
  const Floats log2 = mul_add(to_floats(codes), splat(kOctave), splat(-255 * kOctave));
  return select(codes == splat(0), splat(-1000.0F), log2);
}

// Scales of a trellis codec, relative to the factor of their range.
HWY_INLINE Floats relative_scales(const ScaleRange& range, Ints codes) {
  const auto shift = static_cast<int>(23 - range.mantissa_bits);
  const Ints lowest = splat(std::bit_cast<int32_t>(range.relative(1)) >> shift);
  const Floats scales = floats_from_bits(shift_left(codes + lowest - splat(1), shift));
  return select(codes == splat(0), splat(0.0F), scales);
}

HWY_INLINE void load_halves(const uint16_t* halves, uint32_t count, float factor, float* out) {
  for (uint32_t i = 0; i < count; i += kLanes) store(load_f16(halves + i) * splat(factor), out + i);
}

HWY_INLINE void fill(float value, uint32_t count, float* out) {
  for (uint32_t i = 0; i < count; i += kLanes) store(splat(value), out + i);
}

// The two logarithmic steps in a rotated param: of the largest token scale and of the mean.
HWY_INLINE float scale_step(uint32_t param) { return step_value(static_cast<int16_t>(param & 0xFFFFU)); }
template <bool kTrellis>
HWY_INLINE float mean_step(uint32_t param) {
  return step_value(kTrellis ? trellis_mean_step(param) : static_cast<int16_t>(param >> 16));
}

// What loads one side's terms of a section. A step of the call (steps-inl.h), so that it knows family and
// shape as constants. meta: where the side's begin.
using LoadTerms = void (*)(SectionShape shape, const uint8_t* meta, uint32_t param, Section* section);

template <bool kTrellis, class Shape>
void load_rotated_keys(SectionShape any, const uint8_t* meta, uint32_t param, Section* section) {
  const Shape shape(any);
  const ScaleRange range = scale_range(param);
  for (uint32_t t = 0; t < shape.tokens(); t += kLanes) {
    const Ints codes = load_u8(meta + t);
    store(kTrellis ? relative_scales(range, codes) : relative_scales(codes), section->key_token_scale + t);
  }
  section->key_factor = kTrellis ? range.factor() : scale_step(param);
  section->key_means = meta + shape.tokens();
  section->key_mean_step = mean_step<kTrellis>(param);
}

template <bool kTrellis, class Shape>
void load_rotated_values(SectionShape any, const uint8_t* meta, uint32_t param, Section* section) {
  const Shape shape(any);
  const ScaleRange range = scale_range(param);
  for (uint32_t t = 0; t < shape.tokens(); t += kLanes) {
    const Ints codes = load_u8(meta + t);
    const Floats scales = kTrellis ? relative_scales(range, codes) : relative_scales(codes);
    store(scales, section->value_token_scale + t);
    store(kTrellis ? rough_log2(scales) : relative_log2(codes), section->value_token_log2 + t);
  }
  section->value_factor = kTrellis ? range.factor() : scale_step(param);
  const Floats step = splat(mean_step<kTrellis>(param));
  for (uint32_t c = 0; c < shape.dim(); c += kLanes) {
    store(to_floats(load_s8(meta + shape.tokens() + c)) * step, section->value_offset + c);
  }
}

// lanes: of them; groups: that an outlier may belong to.
HWY_INLINE void load_outliers(const uint8_t* stored, uint32_t lanes, uint32_t groups, float factor,
                              int32_t* group, float* outlier) {
  const Ints last = splat(static_cast<int32_t>(groups - 1));
  for (uint32_t i = 0; i < lanes; i += kLanes) {
    const Ints words = load_u16(reinterpret_cast<const uint16_t*>(stored) + i);
    store(min(words & splat(0xFF), last), group + i);
    alignas(64) uint16_t halves[kLanes];
    store_u16(words & splat(0xFF00), halves);
    store(load_f16(halves) * splat(factor), outlier + i);
  }
}

// Of uniform and non-uniform keys. kExpand: to f32 as well, for keys that are turned.
template <bool kOutliers, bool kExpand, class Shape>
void load_channel_scales(SectionShape any, const uint8_t* meta, uint32_t param, Section* section) {
  const Shape shape(any);
  section->key_scale_halves = reinterpret_cast<const uint16_t*>(meta);
  section->key_mid_halves = section->key_scale_halves + shape.dim();
  section->key_factor = power_of_two(static_cast<int32_t>(param));
  if constexpr (kExpand) {
    load_halves(section->key_scale_halves, shape.dim(), section->key_unit, section->key_channel_scale);
    load_halves(section->key_mid_halves, shape.dim(), 1.0F, section->key_channel_mid);
  }
  if constexpr (kOutliers) {
    load_outliers(meta + size_t{4} * shape.dim(), shape.tokens(), shape.dim(), section->key_factor,
                  section->key_outlier_channel, section->key_outlier);
  }
}

// Of uniform and non-uniform values.
template <bool kOutliers, class Shape>
void load_token_scales(SectionShape any, const uint8_t* meta, uint32_t param, Section* section) {
  const Shape shape(any);
  const uint16_t* scales = reinterpret_cast<const uint16_t*>(meta);
  section->value_factor = power_of_two(static_cast<int32_t>(param));
  for (uint32_t t = 0; t < shape.tokens(); t += kLanes) {
    const Floats scale = load_f16(scales + t) * splat(section->value_unit);
    store(scale, section->value_token_scale + t);
    store(rough_log2(scale), section->value_token_log2 + t);
  }
  load_halves(scales + shape.tokens(), shape.tokens(), 1.0F, section->value_mid);
  if constexpr (kOutliers) {
    load_outliers(meta + size_t{4} * shape.tokens(), shape.dim(), shape.tokens(), section->value_factor,
                  section->value_outlier_token, section->value_outlier);
  }
}

inline void load_nothing(SectionShape, const uint8_t*, uint32_t, Section*) {}

inline float level_unit(const CodecInfo& codec, Side side) {
  if (codec.family == CodecFamily::kNonUniform) return kNuqLevelUnit;
  return side == Side::kKey && codec.bits < 8 ? 0.5F : 1.0F;
}

// What is the same for all sections of a call.
inline void set_constant_terms(const FoldedPages& pages, const CodecInfo& key, const CodecInfo& value,
                               Section* section) {
  const SectionShape shape = pages.shape;
  section->key.table = &level_bytes(key, Side::kKey);
  section->value.table = &level_bytes(value, Side::kValue);
  if (pages.key_codec.levels != nullptr) {
    *section->key_levels = make_level_bytes(key, Side::kKey, pages.key_codec.levels);
    section->key.table = section->key_levels;
  }
  if (pages.value_codec.levels != nullptr) {
    *section->value_levels = make_level_bytes(value, Side::kValue, pages.value_codec.levels);
    section->value.table = section->value_levels;
  }
  section->key_unit = level_unit(key, Side::kKey);
  section->key_centre = key.family == CodecFamily::kUniform && key.bits == 8 ? 0.5F : 0.0F;
  section->value_unit = level_unit(value, Side::kValue);
  section->key.high_plane = high_plane_offset(shape);
  section->value.high_plane = high_plane_offset(shape);
  if (key.space != CodecSpace::kRotated) fill(1.0F, shape.tokens, section->key_token_scale);
  if (value.space != CodecSpace::kRotated) section->value_offset = nullptr;
}

// Where the section after sections[i] lies that is to be prefetched; itself where there is none.
inline const uint8_t* section_ahead(const FoldedPages& pages, std::span<const SectionRef> sections,
                                    size_t i) {
  if (i + 1 < sections.size()) return sections[i + 1].section;
  return pages.next_call != nullptr ? pages.next_call : sections[i].section;
}

// Sections lie anywhere, so each begins with pages of virtual memory that none before it has used, and what
// waits for the walk of a page table holds up all behind it. Walks pass beside one another: so every
// kSectionsWalked sections, one line is asked for in each such page of as many to come. Inlined, as GCC takes
// a function that only asks for lines for one that does nothing.
inline constexpr size_t kSectionsWalked = 8;
inline constexpr uint32_t kVirtualPage = 4096;
HWY_INLINE void walk_ahead(const SectionLayout& layout, std::span<const SectionRef> sections, size_t i) {
  if (i % kSectionsWalked != 0) return;
  const size_t end = std::min(i + 1 + kSectionsWalked, sections.size());
  for (size_t next = i + 1; next < end; ++next) {
    for (uint32_t at = 0; at < layout.sink_keys; at += kVirtualPage) prefetch(sections[next].section + at);
  }
}

// Points at the codes of `ref`'s section and prefetches the meta of the section at `ahead`.
inline void point_at_codes(const SectionLayout& layout, const SectionRef& ref, const uint8_t* ahead,
                           Section* section) {
  section->key.codes = ref.section + layout.key_codes;
  section->key.ahead = ahead + layout.key_codes;
  section->value.codes = ref.section + layout.value_codes;
  section->value.ahead = ahead + layout.value_codes;
  for (uint32_t at = layout.key_meta; at < layout.sink_keys; at += kPageAlign) prefetch(ahead + at);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
