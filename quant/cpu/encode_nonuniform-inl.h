// Encoding of the non-uniform codecs: levels of a table, a scale and a midpoint per channel of keys and per
// token of values, fitted to the codes; one outlier per token of keys and per channel of values where the
// codec has them. FORMATS.md orders every operation; nothing here may be fused or reassociated. Thread
// safety: pure functions.
#pragma once

#include <cstring>

#include "quant/bytes.h"
#include "quant/cpu/group_halves-inl.h"
#include "quant/cpu/level_codes-inl.h"
#include "quant/cpu/outliers-inl.h"
#include "quant/cpu/pack-inl.h"
#include "quant/half.h"
#include "quant/kernels.h"
#include "quant/nuq_levels.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// One side of a section on its way. Codes stand in rows [tokens][dim] until they are packed.
struct NuqSource {
  SectionShape shape;
  const float* x;
  uint32_t first;
  float down;
  const LevelFloats& table;
  const LevelCells& cells;

  HWY_INLINE Floats at(uint32_t token, uint32_t channel) const {
    return load(x + size_t{token} * shape.dim + channel) * splat(down);
  }
  // With 2 bits the search takes no longer.
  template <uint32_t kBits>
  HWY_INLINE Ints codes(Floats y) const {
    return kBits > 2 && cells.apart ? cells.code_of(y) : level_codes<kBits>(y, table);
  }
};

// Per group, one lane each; outliers count in none of them.
struct GroupSums {
  Floats count;
  Floats levels;
  Floats squares;  // of levels: like the two above, integers below 2^24, exact in any order
  Floats values;   // of x' - mid
  Floats energy;   // of its squares
};

// The terms of sixteen members that are added up for their groups.
template <typename Outlier>
HWY_INLINE GroupSums member_terms(Floats from_mid, Floats level, Outlier outlier) {
  const Floats kept_level = kept_or(outlier, 0.0F, level);
  const Floats kept = kept_or(outlier, 0.0F, from_mid);
  return {kept_or(outlier, 0.0F, splat(1.0F)), kept_level, kept_level * kept_level, kept, kept * kept};
}
HWY_INLINE GroupSums operator+(const GroupSums& a, const GroupSums& b) {
  return {a.count + b.count, a.levels + b.levels, a.squares + b.squares, a.values + b.values,
          a.energy + b.energy};
}

// Sixteen groups as stored: value = level * unit + mid.
struct NuqGroups {
  Floats unit;
  Floats inverse;
  Floats mid;

  HWY_INLINE static NuqGroups load(const uint16_t* scales, const uint16_t* mids) {
    const Floats scale = load_f16(scales);
    const Floats unit = scale * splat(kNuqLevelUnit);
    return {unit, select(splat(0.0F) < scale, splat(1.0F) / unit, splat(0.0F)), load_f16(mids)};
  }
};

HWY_INLINE void store_range(Floats low, Floats high, uint16_t* scales, uint16_t* mids) {
  store_half((high - low) * splat(kNuqRangeToScale), scales);
  store_half((low + high) * splat(0.5F), mids);
}

// Q-Norm of sixteen groups: scales and midpoints that give the folded members the mean and the deviation of
// the members themselves.
HWY_INLINE void fit_groups(const GroupSums& sums, uint16_t* scales, uint16_t* mids) {
  const Floats zero = splat(0.0F);
  const Floats scale = load_f16(scales);
  const Floats mid = load_f16(mids);
  const Floats spread = sums.count * sums.energy - sums.values * sums.values;
  const Floats level_spread = sums.count * sums.squares - sums.levels * sums.levels;
  const auto where_fitted = [&](Floats fitted, Floats kept) __attribute__((always_inline)) {
    return select(zero < spread, select(zero < level_spread, fitted, kept), kept);
  };
  const Floats wanted = sqrt(spread / level_spread) / splat(kNuqLevelUnit);
  store_half(where_fitted(max(min(wanted, scale * splat(2.0F)), scale * splat(0.5F)), scale), scales);
  const Floats unit = load_f16(scales) * splat(kNuqLevelUnit);
  store_half(where_fitted(mid + (sums.values - unit * sums.levels) / sums.count, mid), mids);
}

// Keys: lanes are groups.
template <uint32_t kBits, typename Outliers>
void encode_nuq_keys(const NuqSource& source, const Outliers& outliers, uint16_t* scales,
                     uint8_t* code_rows) {
  const SectionShape shape = source.shape;
  uint16_t* mids = scales + shape.dim;
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    GroupRange range = GroupRange::empty();
    for (uint32_t t = source.first; t < shape.tokens; ++t) {
      range.add(source.at(t, c), key_outlier_at(outliers, t, c));
    }
    store_range(range.low(), range.high(), scales + c, mids + c);
    const NuqGroups groups = NuqGroups::load(scales + c, mids + c);
    GroupSums sums;
    for (uint32_t t = source.first; t < shape.tokens; ++t) {
      const Floats from_mid = source.at(t, c) - groups.mid;
      const Ints codes = source.codes<kBits>(from_mid * groups.inverse);
      store_low_bytes(codes, code_rows + size_t{t} * shape.dim + c);
      const GroupSums terms =
          member_terms(from_mid, lookup(source.table.levels, codes), key_outlier_at(outliers, t, c));
      sums = t == source.first ? terms : sums + terms;
    }
    fit_groups(sums, scales + c, mids + c);
  }
}

// Values: lanes are members.
template <uint32_t kBits, typename Outliers>
void encode_nuq_values(const NuqSource& source, const Outliers& outliers, uint16_t* scales,
                       uint8_t* code_rows) {
  const SectionShape shape = source.shape;
  uint16_t* mids = scales + shape.tokens;
  // By token; those that are left out have zeros and so store zeros.
  alignas(64) float low[kMaxTokens] = {};
  alignas(64) float high[kMaxTokens] = {};
  alignas(64) float count[kMaxTokens] = {};
  alignas(64) float levels[kMaxTokens] = {};
  alignas(64) float squares[kMaxTokens] = {};
  alignas(64) float values[kMaxTokens] = {};
  alignas(64) float energy[kMaxTokens] = {};
  for (uint32_t t = source.first; t < shape.tokens; ++t) {
    GroupRange range = GroupRange::empty();
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      range.add(source.at(t, c), value_outlier_at(outliers, t, c));
    }
    range.reduce(&low[t], &high[t]);
  }
  for (uint32_t t = 0; t < shape.tokens; t += kLanes) {
    store_range(load(low + t), load(high + t), scales + t, mids + t);
  }
  for (uint32_t t = source.first; t < shape.tokens; ++t) {
    const float scale = f16_to_f32(scales[t]);
    const Floats inverse = splat(scale > 0.0F ? 1.0F / (scale * kNuqLevelUnit) : 0.0F);
    const Floats mid = splat(f16_to_f32(mids[t]));
    GroupSums sums;
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const Floats from_mid = source.at(t, c) - mid;
      const Ints codes = source.codes<kBits>(from_mid * inverse);
      store_low_bytes(codes, code_rows + size_t{t} * shape.dim + c);
      const GroupSums terms =
          member_terms(from_mid, lookup(source.table.levels, codes), value_outlier_at(outliers, t, c));
      sums = c == 0 ? terms : sums + terms;
    }
    count[t] = sum16(sums.count);
    levels[t] = sum16(sums.levels);
    squares[t] = sum16(sums.squares);
    values[t] = sum16(sums.values);
    energy[t] = sum16(sums.energy);
  }
  for (uint32_t t = 0; t < shape.tokens; t += kLanes) {
    const GroupSums sums{load(count + t), load(levels + t), load(squares + t), load(values + t),
                         load(energy + t)};
    fit_groups(sums, scales + t, mids + t);
  }
}

// What each lane's outlier lies above its code, beside the group that it belongs to.
inline void store_outliers(Side side, const NuqSource& source, const OutlierGroups& outliers,
                           const uint16_t* scales, const uint8_t* code_rows, uint16_t* out) {
  const bool key = side == Side::kKey;
  const uint32_t groups = key ? source.shape.dim : source.shape.tokens;
  const uint32_t lanes = key ? source.shape.tokens : source.shape.dim;
  for (uint32_t lane = key ? source.first : 0; lane < lanes; ++lane) {
    const auto group = static_cast<uint32_t>(outliers.group[lane]);
    const size_t at = key ? size_t{lane} * groups + group : size_t{group} * lanes + lane;
    const float unit = f16_to_f32(scales[group]) * kNuqLevelUnit;
    const float folded = source.table.levels[code_rows[at]] * unit + f16_to_f32(scales[groups + group]);
    const float rest = source.x[at] * source.down - folded;
    out[lane] = static_cast<uint16_t>(group | uint32_t{f32_to_e5m2(rest)} << 8);
  }
}

template <uint32_t kBits, typename Outliers>
void encode_nuq_side(Side side, const NuqSource& source, const Outliers& outliers, uint16_t* scales,
                     uint8_t* code_rows) {
  side == Side::kKey ? encode_nuq_keys<kBits>(source, outliers, scales, code_rows)
                     : encode_nuq_values<kBits>(source, outliers, scales, code_rows);
}

template <uint32_t kBits>
void encode_nonuniform(Side side, const CodecInfo& codec, SectionShape shape, const int8_t* levels,
                       const float* x, uint32_t first, uint8_t* codes, uint8_t* meta, uint32_t* param) {
  alignas(64) uint8_t code_rows[kMaxCodes];
  const size_t left_out = size_t{first} * shape.dim;
  const float largest = largest_input(x + left_out, size_t{shape.tokens} * shape.dim - left_out);
  const int exponent = section_exponent(largest);
  const LevelFloats table(kBits, nuq_levels(kBits, side, levels));
  const LevelCells cells(kBits, table);
  const NuqSource source{shape, x, first, power_of_two(-exponent), table, cells};
  uint16_t* scales = reinterpret_cast<uint16_t*>(meta);
  uint16_t* outliers_at = scales + size_t{2} * (side == Side::kKey ? shape.dim : shape.tokens);

  std::memset(meta, 0, meta_bytes(codec, side, shape));
  std::memset(code_rows, 0, left_out);
  if (first < shape.tokens && codec.outliers) {
    OutlierGroups outliers;
    find_outliers(side, shape, x, first, source.down, &outliers);
    encode_nuq_side<kBits>(side, source, outliers, scales, code_rows);
    store_outliers(side, source, outliers, scales, code_rows, outliers_at);
  } else if (first < shape.tokens) {
    encode_nuq_side<kBits>(side, source, NoOutliers{}, scales, code_rows);
  }
  pack_codes(side, kBits, shape, code_rows, codes);
  *param = static_cast<uint32_t>(exponent);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
