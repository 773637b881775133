// nuq4, nuq3, nuq2 and nuq4s, nuq3s, nuq2s: KVQuant's codecs. Groups are those of the uniform codecs, a
// channel of keys or a token of values; codes stand for the levels of a table, and each group's scale and
// midpoint are fitted to the codes that came out (Q-Norm). The s codecs keep one value of each lane apart: of
// a token of keys, of a channel of values, the one that lies farthest out of its group.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "quant/bytes.h"
#include "quant/dot_quad.h"
#include "quant/half.h"
#include "quant/nuq_levels.h"
#include "quant/reference/codecs.h"
#include "quant/reference/sum16.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

namespace quire::reference {
namespace {

constexpr uint32_t kMaxLanes = 256;
// Deviations below this, beside values near 1, are taken as zero.
constexpr float kNegligible = 0x1p-60F;

// One side of a section as [group][lane] over x': keys are [channel][token], values [token][channel].
struct Grid {
  Side side;
  SectionShape shape;
  const float* x;
  float down;
  uint32_t first;  // token

  uint32_t groups() const { return side == Side::kKey ? shape.dim : shape.tokens; }
  uint32_t lanes() const { return side == Side::kKey ? shape.tokens : shape.dim; }
  uint32_t first_group() const { return side == Side::kKey ? 0 : first; }
  uint32_t first_lane() const { return side == Side::kKey ? first : 0; }
  uint32_t token(uint32_t group, uint32_t lane) const { return side == Side::kKey ? lane : group; }
  uint32_t channel(uint32_t group, uint32_t lane) const { return side == Side::kKey ? group : lane; }
  float at(uint32_t group, uint32_t lane) const {
    return x[size_t{token(group, lane)} * shape.dim + channel(group, lane)] * down;
  }
};

// The sum of term(lane) over a group: keys in the order of tokens, values as sum16 over channels.
template <typename Term>
float sum_lanes(const Grid& grid, Term term) {
  if (grid.side == Side::kValue) {
    Row row{};
    for (uint32_t lane = 0; lane < grid.lanes(); ++lane) row[lane] = term(lane);
    return sum16(row, grid.lanes());
  }
  float sum = term(grid.first_lane());
  for (uint32_t lane = grid.first_lane() + 1; lane < grid.lanes(); ++lane) sum += term(lane);
  return sum;
}

// Which group each lane's outlier belongs to.
struct Outliers {
  bool exist;
  std::array<uint8_t, kMaxLanes> group{};

  bool holds(uint32_t g, uint32_t lane) const { return exist && group[lane] == g; }
};

// A group's mean and 1 / its deviation, which is 0 for a group without one.
struct Spread {
  float mean;
  float inverse;
};

Spread spread_of(const Grid& grid, uint32_t group) {
  const float share = 1.0F / static_cast<float>(grid.lanes() - grid.first_lane());
  const float mean = sum_lanes(grid, [&](uint32_t lane) { return grid.at(group, lane); }) * share;
  const auto square = [&](uint32_t lane) {
    const float from_mean = grid.at(group, lane) - mean;
    return from_mean * from_mean;
  };
  const float deviation = std::sqrt(sum_lanes(grid, square) * share);
  return {mean, deviation < kNegligible ? 0.0F : 1.0F / deviation};
}

Outliers find_outliers(const Grid& grid) {
  Outliers outliers{.exist = true};
  std::array<float, kMaxLanes> farthest;
  farthest.fill(-1.0F);
  for (uint32_t group = grid.first_group(); group < grid.groups(); ++group) {
    const Spread spread = spread_of(grid, group);
    for (uint32_t lane = grid.first_lane(); lane < grid.lanes(); ++lane) {
      const float distance = std::fabs(grid.at(group, lane) - spread.mean) * spread.inverse;
      if (!(farthest[lane] < distance)) continue;
      farthest[lane] = distance;
      outliers.group[lane] = static_cast<uint8_t>(group);
    }
  }
  return outliers;
}

struct Range {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();
  void add(float value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// Over the members that are no outliers, or over all where nothing else is left.
Range range_of(const Grid& grid, const Outliers& outliers, uint32_t group) {
  Range all;
  Range kept;
  for (uint32_t lane = grid.first_lane(); lane < grid.lanes(); ++lane) {
    all.add(grid.at(group, lane));
    if (!outliers.holds(group, lane)) kept.add(grid.at(group, lane));
  }
  return kept.low <= kept.high ? kept : all;
}

// As stored: halves.
struct GroupScale {
  uint16_t scale_bits = 0;
  uint16_t mid_bits = 0;

  float scale() const { return f16_to_f32(scale_bits); }
  float unit() const { return scale() * kNuqLevelUnit; }  // what one level unit is worth
  float mid() const { return f16_to_f32(mid_bits); }
};

uint16_t to_f16_unsigned_zero(float value) {
  const uint16_t bits = f32_to_f16(value);
  return bits == 0x8000U ? uint16_t{0} : bits;
}

GroupScale scale_of(Range range) {
  return {to_f16_unsigned_zero((range.high - range.low) * kNuqRangeToScale),
          to_f16_unsigned_zero((range.low + range.high) * 0.5F)};
}

uint32_t quantise(const int8_t* levels, uint32_t bits, const GroupScale& group, float value) {
  const float inverse = group.scale() > 0.0F ? 1.0F / group.unit() : 0.0F;
  const float y = (value - group.mid()) * inverse;
  uint32_t code = 0;
  for (size_t i = 1; i < size_t{1} << bits; ++i) code += threshold_below(levels, i) < y ? 1U : 0U;
  return code;
}

// Q-Norm: the scale and midpoint that give the folded members the mean and the deviation of the members
// themselves. Outliers count in neither.
template <typename LevelOf>
GroupScale fit_to_levels(const Grid& grid, const Outliers& outliers, uint32_t group, const GroupScale& from,
                         LevelOf level_of) {
  const auto sum = [&](auto term) {
    return sum_lanes(grid, [&](uint32_t lane) { return outliers.holds(group, lane) ? 0.0F : term(lane); });
  };
  const auto from_mid = [&](uint32_t lane) { return grid.at(group, lane) - from.mid(); };
  const float n = sum([](uint32_t) { return 1.0F; });
  const float levels = sum(level_of);
  const float squares = sum([&](uint32_t lane) { return level_of(lane) * level_of(lane); });
  const float values = sum(from_mid);
  const float energy = sum([&](uint32_t lane) { return from_mid(lane) * from_mid(lane); });
  const float spread = n * energy - values * values;
  const float level_spread = n * squares - levels * levels;
  if (!(spread > 0.0F && level_spread > 0.0F)) return from;
  const float wanted = std::sqrt(spread / level_spread) / kNuqLevelUnit;
  GroupScale fitted;
  fitted.scale_bits = to_f16_unsigned_zero(std::clamp(wanted, from.scale() * 0.5F, from.scale() * 2.0F));
  fitted.mid_bits = to_f16_unsigned_zero(from.mid() + (values - fitted.unit() * levels) / n);
  return fitted;
}

float value_of(const int8_t* levels, uint32_t code, const GroupScale& group) {
  return static_cast<float>(levels[code]) * group.unit() + group.mid();
}

GroupScale stored_group(const uint8_t* meta, uint32_t groups, uint32_t group) {
  return {load_le<uint16_t>(meta + size_t{2} * group),
          load_le<uint16_t>(meta + size_t{2} * (size_t{groups} + group))};
}

}  // namespace

uint32_t encode_nonuniform(const CodecInfo& codec, Side side, SectionShape shape, const int8_t* of_layer,
                           const float* x, uint32_t first, uint8_t* codes, uint8_t* meta) {
  const int exponent = section_exponent_of(shape, x, first);
  if (first == shape.tokens) return static_cast<uint32_t>(exponent);
  const Grid grid{side, shape, x, power_of_two(-exponent), first};
  const int8_t* levels = nuq_levels(codec.bits, side, of_layer);
  const Outliers outliers = codec.outliers ? find_outliers(grid) : Outliers{.exist = false};
  const uint32_t groups = grid.groups();

  for (uint32_t group = grid.first_group(); group < groups; ++group) {
    const GroupScale ranged = scale_of(range_of(grid, outliers, group));
    std::array<uint8_t, kMaxLanes> code{};
    for (uint32_t lane = grid.first_lane(); lane < grid.lanes(); ++lane) {
      code[lane] = static_cast<uint8_t>(quantise(levels, codec.bits, ranged, grid.at(group, lane)));
      put_code(codes, side, shape, codec.bits, grid.token(group, lane), grid.channel(group, lane),
               code[lane]);
    }
    const GroupScale fitted = fit_to_levels(
        grid, outliers, group, ranged, [&](uint32_t lane) { return static_cast<float>(levels[code[lane]]); });
    store_le<uint16_t>(meta + size_t{2} * group, fitted.scale_bits);
    store_le<uint16_t>(meta + size_t{2} * (size_t{groups} + group), fitted.mid_bits);
    for (uint32_t lane = grid.first_lane(); lane < grid.lanes(); ++lane) {
      if (!outliers.holds(group, lane)) continue;
      const float rest = grid.at(group, lane) - value_of(levels, code[lane], fitted);
      store_le<uint16_t>(meta + size_t{4} * groups + size_t{2} * lane,
                         static_cast<uint16_t>(group | uint32_t{f32_to_e5m2(rest)} << 8));
    }
  }
  return static_cast<uint32_t>(exponent);
}

void decode_nonuniform(const CodecInfo& codec, Side side, SectionShape shape, const int8_t* of_layer,
                       const SideView& view, float* out) {
  const float up = power_of_two(static_cast<int32_t>(view.param));
  const Grid grid{side, shape, nullptr, 1.0F, 0};
  const int8_t* levels = nuq_levels(codec.bits, side, of_layer);
  const uint8_t* outliers = view.meta + size_t{4} * grid.groups();
  for (uint32_t group = 0; group < grid.groups(); ++group) {
    const GroupScale scale = stored_group(view.meta, grid.groups(), group);
    for (uint32_t lane = 0; lane < grid.lanes(); ++lane) {
      const uint32_t token = grid.token(group, lane);
      const uint32_t channel = grid.channel(group, lane);
      float value = value_of(levels, get_code(view.codes, side, shape, codec.bits, token, channel), scale);
      if (codec.outliers) {
        const auto outlier = load_le<uint16_t>(outliers + size_t{2} * lane);
        if (outlier_group(outlier, grid.groups()) == group) {
          value += e5m2_to_f32(static_cast<uint8_t>(outlier >> 8));
        }
      }
      out[size_t{token} * shape.dim + channel] = value * up;
    }
  }
}

}  // namespace quire::reference
