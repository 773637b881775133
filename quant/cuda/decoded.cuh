// One value of a folded section, exactly as FORMATS.md decodes it where it is built with --fmad=false.
#pragma once

#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"
#include "quant/cuda/nuq_tables.cuh"
#include "quant/cuda/trellis_tables.cuh"
#include "quant/dot_quad.h"
#include "quant/scale_code.h"

namespace quire::cuda {

// One side of one section. What does not depend on the element is worked out once.
struct FoldedSide {
  DeviceCodec codec;
  Side side;
  SectionShape shape;
  const uint8_t* codes;
  const uint8_t* meta;
  uint32_t param;
  const int8_t* levels;  // [2^bits], or of a trellis [64], where the codec has a table
  bool outliers;

  __device__ __forceinline__ bool is_key() const { return side == Side::kKey; }
  __device__ __forceinline__ uint32_t groups() const { return is_key() ? shape.dim : shape.tokens; }
  __device__ __forceinline__ uint32_t code(uint32_t token, uint32_t channel) const {
    return get_code(codes, side, shape, codec.bits, token, channel);
  }
};

inline constexpr uint32_t kDecodeLevels = kTrellisLevels;

__device__ __forceinline__ bool keeps_outliers(CodecId id) {
  return id == CodecId::kNuq4s || id == CodecId::kNuq3s || id == CodecId::kNuq2s;
}

// Level `i` of a side's table, 0 beyond its end and for codecs that have none.
__device__ __forceinline__ int8_t table_level(const SectionFormat& format, Side side, uint32_t i) {
  const DeviceCodec& codec = side == Side::kKey ? format.key : format.value;
  if (codec.family == CodecFamily::kTrellis) return kTrellisTables.levels[codec.bits - 1][i];
  if (codec.family == CodecFamily::kFloat || codec.family == CodecFamily::kUniform) return 0;
  if (i >= 1U << codec.bits) return 0;
  if (codec.family == CodecFamily::kRotated) return kLevelTables.levels[table_of(codec.bits)][i];
  return nuq_level(format, side, i);
}

// levels: [kDecodeLevels], what table_level says.
__device__ __forceinline__ FoldedSide folded_side(const SectionFormat& format, Side side,
                                                  const SectionRef& ref, const int8_t* levels) {
  const bool key = side == Side::kKey;
  const DeviceCodec codec = key ? format.key : format.value;
  return {codec,
          side,
          format.shape,
          ref.section + (key ? format.layout.key_codes : format.layout.value_codes),
          ref.section + (key ? format.layout.key_meta : format.layout.value_meta),
          key ? ref.key_param : ref.value_param,
          levels,
          keeps_outliers(codec.id)};
}

__device__ __forceinline__ float group_half(const FoldedSide& s, uint32_t index) {
  return half_bits_to_float(load_as<uint16_t>(s.meta + size_t{2} * index));
}

__device__ __forceinline__ float uniform_value(const FoldedSide& s, uint32_t token, uint32_t channel) {
  const uint32_t group = s.is_key() ? channel : token;
  const float scale = group_half(s, group);
  const float mid = group_half(s, s.groups() + group);
  const auto last = static_cast<float>((1U << s.codec.bits) - 1);
  const float centre = s.is_key() ? __fmul_rn(last, 0.5F) : static_cast<float>(1U << (s.codec.bits - 1));
  const auto code = static_cast<float>(s.code(token, channel));
  const float value = __fadd_rn(__fmul_rn(__fsub_rn(code, centre), scale), mid);
  return __fmul_rn(value, power_of_two(static_cast<int32_t>(s.param)));
}

__device__ __forceinline__ float nonuniform_value(const FoldedSide& s, uint32_t token, uint32_t channel) {
  const uint32_t group = s.is_key() ? channel : token;
  const float unit = __fmul_rn(group_half(s, group), kNuqLevelUnit);
  const float mid = group_half(s, s.groups() + group);
  float value = __fadd_rn(__fmul_rn(static_cast<float>(s.levels[s.code(token, channel)]), unit), mid);
  if (s.outliers) {
    const uint32_t lane = s.is_key() ? token : channel;
    const auto outlier = load_as<uint16_t>(s.meta + size_t{4} * s.groups() + size_t{2} * lane);
    if (outlier_group(outlier, s.groups()) == group) {
      value = __fadd_rn(value, half_bits_to_float(outlier & 0xFF00U));
    }
  }
  return __fmul_rn(value, power_of_two(static_cast<int32_t>(s.param)));
}

// Means of rotated and trellis codecs, and what levels add to them.
__device__ __forceinline__ float above_mean(const FoldedSide& s, uint32_t channel, int level, float scale,
                                            int mean_step) {
  const auto mean_code = static_cast<float>(static_cast<int8_t>(s.meta[s.shape.tokens + channel]));
  return __fadd_rn(__fmul_rn(static_cast<float>(level), scale),
                   __fmul_rn(mean_code, device_step_value(mean_step)));
}

__device__ __forceinline__ float rotated_value(const FoldedSide& s, uint32_t token, uint32_t channel) {
  const int scale_code = s.meta[token];
  const auto largest = static_cast<int16_t>(s.param & 0xFFFFU);
  const float scale = scale_code == 0 ? 0.0F : device_step_value(largest + scale_code - 255);
  return above_mean(s, channel, s.levels[s.code(token, channel)], scale, static_cast<int16_t>(s.param >> 16));
}

// The index of an element's level: its own code and the histories of those before it in its chain.
__device__ __forceinline__ uint32_t trellis_index(const FoldedSide& s, uint32_t token, uint32_t channel) {
  const TrellisShape trellis = trellis_shape(s.codec.bits);
  const uint32_t chain = s.is_key() ? s.shape.dim : s.shape.tokens;
  const uint32_t quads = chain / 4;
  const uint32_t r = s.is_key() ? channel : token;
  const uint32_t place = r % 4 * quads + r / 4;
  const uint32_t before = (trellis.window_bits - 1) / trellis.history_bits;
  uint32_t window = 0;
  uint32_t code = 0;
  for (uint32_t i = 0; i <= before; ++i) {
    const uint32_t at = (place + chain - before + i) % chain;
    const uint32_t reduction = at % quads * 4 + at / quads;
    code = s.is_key() ? s.code(token, reduction) : s.code(reduction, channel);
    const uint32_t history = code >> trellis.rest_bits;
    window = window >> trellis.history_bits | history << (trellis.window_bits - trellis.history_bits);
  }
  return window | (code & ((1U << trellis.rest_bits) - 1)) << trellis.window_bits;
}

// scale_code.h's scale_of.
__device__ __forceinline__ float trellis_token_scale(uint32_t param, uint32_t code) {
  const ScaleRange range = scale_range(param);
  if (code == 0) return 0.0F;
  const float factor = device_step_value((range.largest >> kMostMantissaBits) * kStepsPerOctave);
  return __fmul_rn(range.relative(static_cast<uint8_t>(code)), factor);
}

__device__ __forceinline__ float trellis_value(const FoldedSide& s, uint32_t token, uint32_t channel) {
  return above_mean(s, channel, s.levels[trellis_index(s, token, channel)],
                    trellis_token_scale(s.param, s.meta[token]), trellis_mean_step(s.param));
}

// Tokens that stand unfolded: sinks [tokens][dim] in bf16.
__device__ __forceinline__ float sink_value(const uint8_t* sinks, uint32_t dim, uint32_t token, uint32_t c) {
  return bf16_bits_to_float(load_as<uint16_t>(sinks + size_t{2} * (size_t{token} * dim + c)));
}

__device__ __forceinline__ float decoded(const FoldedSide& s, uint32_t token, uint32_t channel) {
  switch (s.codec.family) {
    case CodecFamily::kFloat: {
      const size_t at = float_index(s.side, s.shape, s.codec.bits, token, channel);
      if (s.codec.bits == 32) return load_as<float>(s.codes + 4 * at);
      return bf16_bits_to_float(load_as<uint16_t>(s.codes + 2 * at));
    }
    case CodecFamily::kUniform:
      return uniform_value(s, token, channel);
    case CodecFamily::kNonUniform:
      return nonuniform_value(s, token, channel);
    case CodecFamily::kRotated:
      return rotated_value(s, token, channel);
    default:
      return trellis_value(s, token, channel);
  }
}

}  // namespace quire::cuda
