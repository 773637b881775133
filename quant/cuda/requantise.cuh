// Uniform and non-uniform codecs of up to 4 bits as prefill tiles take them: their values become signed bytes
// with a scale per token.
//
// Keys of these codecs have scales per channel, which a sum over channels cannot take into account, and
// channels differ widely. So keys are rotated as they are unpacked, and queries with them (rotate_across):
// that makes channels alike without changing the product. Then they are rounded relative to the largest of
// their token, values relative to the most that their token can hold. Both lose some .7 % of what they are,
// a tenth of what 4 bits have lost.
//
// A section's groups (channels of keys, tokens of values) are brought to one multiplication and one addition
// a level first, then a warp takes a token in four of 32, or a unit of values (prefill_unpack.cuh).
#pragma once

#include "quant/cuda/attend_dims.h"
#include "quant/cuda/prefill_section.cuh"
#include "quant/cuda/rotate_across.cuh"

namespace quire::cuda {

// What the groups of a section come to, in shared memory: value = level * x + y. Of keys divided by dim, the
// square of the norm of H; of values in units of their token's scale.
template <int kBlocks>
struct RequantisedGroups {
  float2 keys[kBlocks * 32];
  float2 values[kPrefillTokens];
  float key_scales[kPrefillTokens];  // of tokens: what 1 in a byte is worth
  float value_scales[kPrefillTokens];
};

// One side of a section as it was copied to shared memory (copy_section).
struct CopiedSide {
  DeviceCodec codec;
  PackedCodes packed;
  const uint8_t* meta;
  const int8_t* levels;  // [kDecodeLevels], aligned to 16 bytes
  uint32_t groups;
  float power;  // 2^e
};

// level * x + y; centre: the code of a uniform codec's midpoint.
__device__ __forceinline__ float2 group_line(const CopiedSide& side, uint32_t group, float centre) {
  const float scale = half_bits_to_float(load_as<uint16_t>(side.meta + 2 * group)) * side.power;
  const float mid = half_bits_to_float(load_as<uint16_t>(side.meta + 2 * (side.groups + group))) * side.power;
  if (side.codec.family == CodecFamily::kUniform) return make_float2(scale, fmaf(-centre, scale, mid));
  return make_float2(scale * kNuqLevelUnit, mid);
}
// A lane's outlier: what it adds to the value of its group.
struct Outlier {
  uint32_t group;
  float rest;
};
__device__ __forceinline__ Outlier outlier_of(const CopiedSide& side, uint32_t lane) {
  const auto stored = load_as<uint16_t>(side.meta + 4 * side.groups + 2 * lane);
  return {outlier_group(stored, side.groups), half_bits_to_float(stored & 0xFF00U) * side.power};
}

__device__ __forceinline__ float2 key_line(const CopiedSide& side, uint32_t channel) {
  const float2 line = group_line(side, channel, 0.5F * static_cast<float>((1U << side.codec.bits) - 1));
  const float share = 1.0F / static_cast<float>(side.groups);
  return make_float2(line.x * share, line.y * share);
}
// scale: of the token's bytes.
__device__ __forceinline__ float2 value_line(const CopiedSide& side, uint32_t token, float* scale) {
  const float2 line = group_line(side, token, static_cast<float>(1U << (side.codec.bits - 1)));
  const float first = fmaf(static_cast<float>(side.levels[0]), line.x, line.y);
  const float last = fmaf(static_cast<float>(side.levels[(1U << side.codec.bits) - 1]), line.x, line.y);
  float rest = 0.0F;
  if (keeps_outliers(side.codec.id)) {
    for (uint32_t channel = 0; channel < side.packed.lanes; ++channel) {
      const Outlier outlier = outlier_of(side, channel);
      if (outlier.group == token) rest = fmaxf(rest, fabsf(outlier.rest));
    }
  }
  const float top = fmaxf(fmaxf(fabsf(first), fabsf(last)) + rest, 1e-30F);
  const float inverse = 127.0F * reciprocal_approx(top);
  *scale = top * (1.0F / 127.0F);
  return make_float2(line.x * inverse, line.y * inverse);
}

// The byte `e` of a word, which has a sign, as a float.
__device__ __forceinline__ float signed_byte(uint32_t word, uint32_t e) {
  return __uint_as_float(__byte_perm(word ^ 0x80808080U, 0x4B000000U, 0x7540U + e)) - 8388736.0F;
}
// Levels of eight elements along the reduction: 32 block + 8 i .. + 7.
template <uint32_t kBits>
__device__ __forceinline__ void eight_levels(const PackedCodes& packed, const uint4& table, uint32_t block,
                                             uint32_t lane, uint32_t i, float (&x)[8]) {
  const uint32_t low = packed.load_word(kBits == 4 ? 4 * block + i : 2 * block + i / 2, lane);
  const uint32_t high = kBits == 3 ? packed.load_word(packed.reduction / 16 + block, lane) : 0;
  uint32_t words[2];
  look_up<kBits>(table, nibbles<kBits>(low, high, i), words);
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
#pragma unroll
    for (uint32_t e = 0; e < 4; ++e) x[pack_order<true>(r, e)] = signed_byte(words[r], e);
  }
}
__device__ __forceinline__ uint2 rounded_bytes(float (&x)[8], float inverse) {
#pragma unroll
  for (float& value : x) value = __uint_as_float(rounded_bits(value, inverse));
  uint2 words;
  pack_low_bytes(x, words.x, words.y);
  return words;
}

// Keys of the tokens 32 group + 4 g + t: one_key(group, t, block, bytes of channels 32 block + 8 i .. + 7).
template <uint32_t kBits, int kBlocks, typename To>
__device__ __forceinline__ void requantise_keys(const CopiedSide& side, uint32_t group, uint32_t t, Lane at,
                                                RequantisedGroups<kBlocks>* groups, const To& to) {
  const uint32_t token = 32 * group + 4 * at.g + t;
  const auto table = load_as<uint4>(side.levels);
  float x[8 * kBlocks];
#pragma unroll
  for (uint32_t b = 0; b < kBlocks; ++b) {
    float eight[8];
    eight_levels<kBits>(side.packed, table, b, token, at.i, eight);
#pragma unroll
    for (uint32_t k = 0; k < 8; ++k) {
      const float2 line = groups->keys[32 * b + 8 * at.i + k];
      x[8 * b + k] = fmaf(eight[k], line.x, line.y);
    }
  }
  if (keeps_outliers(side.codec.id)) {
    const Outlier outlier = outlier_of(side, token);
    const float rest = outlier.rest * (1.0F / (kBlocks * 32));
#pragma unroll
    for (uint32_t j = 0; j < 8 * kBlocks; ++j) {
      if (outlier.group == 32 * (j / 8) + 8 * at.i + j % 8) x[j] += rest;
    }
  }
  rotate_across<4>(x);
  const float top = fmaxf(quad_max(largest_magnitude(x)), 1e-30F);
  const float inverse = 127.0F * reciprocal_approx(top);
  if (at.i == 0) groups->key_scales[token] = top * (1.0F / 127.0F);
#pragma unroll
  for (uint32_t b = 0; b < kBlocks; ++b) {
    float eight[8];
#pragma unroll
    for (uint32_t k = 0; k < 8; ++k) eight[k] = x[8 * b + k];
    to.one_key(group, t, b, rounded_bytes(eight, inverse));
  }
}

// A unit of values: channels 32 block + 4 g + t of tokens 32 group + 8 i .. + 7.
template <uint32_t kBits, int kBlocks>
__device__ __forceinline__ Operands requantise_values(const CopiedSide& side, uint32_t group, uint32_t block,
                                                      Lane at, const RequantisedGroups<kBlocks>& groups) {
  const auto table = load_as<uint4>(side.levels);
  const uint32_t first = 32 * group + 8 * at.i;
  Operands unit;
#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) {
    const uint32_t channel = 32 * block + 4 * at.g + t;
    float x[8];
    eight_levels<kBits>(side.packed, table, group, channel, at.i, x);
#pragma unroll
    for (uint32_t k = 0; k < 8; ++k) {
      const float2 line = groups.values[first + k];
      x[k] = fmaf(x[k], line.x, line.y);
    }
    if (keeps_outliers(side.codec.id)) {
      const Outlier outlier = outlier_of(side, channel);
      const float rest = outlier.rest * reciprocal_approx(groups.value_scales[outlier.group]);
#pragma unroll
      for (uint32_t k = 0; k < 8; ++k) {
        if (outlier.group == first + k) x[k] += rest;
      }
    }
    const uint2 words = rounded_bytes(x, 1.0F);
    unit.b[t][0] = words.x;
    unit.b[t][1] = words.y;
  }
  return unit;
}

// A section as it was copied, and what its groups came to where a side is requantised.
template <int kBlocks>
struct CopiedSection {
  const SectionFormat& format;
  const SectionRef& ref;
  const uint8_t* copied;
  const int8_t* levels;  // load_levels
  RequantisedGroups<kBlocks>* groups;

  __device__ __forceinline__ CopiedSide keys() const {
    return {format.key,
            {copied, kPrefillTokens, kBlocks * 32},
            copied + format.layout.key_meta,
            levels,
            kBlocks * 32,
            power_of_two(static_cast<int32_t>(ref.key_param))};
  }
  __device__ __forceinline__ CopiedSide values() const {
    return {format.value,
            {copied + format.layout.value_codes, kBlocks * 32, kPrefillTokens},
            copied + format.layout.value_meta,
            levels + kDecodeLevels,
            kPrefillTokens,
            power_of_two(static_cast<int32_t>(ref.value_param))};
  }
};

// What its groups come to, by all of kUnpackThreads; it is there after the next barrier.
template <int kBlocks>
__device__ __forceinline__ void bring_to_lines(const CopiedSection<kBlocks>& section) {
  constexpr uint32_t kDim = kBlocks * 32;
  static_assert(kDim + kPrefillTokens <= kUnpackThreads);
  const uint32_t place = threadIdx.x;
  if (place < kDim) {
    if (is_requantised(section.format.key)) section.groups->keys[place] = key_line(section.keys(), place);
  } else if (place < kDim + kPrefillTokens && is_requantised(section.format.value)) {
    const uint32_t token = place - kDim;
    section.groups->values[token] = value_line(section.values(), token, section.groups->value_scales + token);
  }
}

}  // namespace quire::cuda
