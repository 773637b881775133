// tcq4 .. tcq1: as the rotated codecs, but levels are chosen by the cheapest paths through a trellis along
// the reduction axis, and tokens' scales make up for what levels lose of a token's length.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>

#include "quant/dot_quad.h"
#include "quant/reference/codecs.h"
#include "quant/reference/section_mean.h"
#include "quant/scale_code.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"
#include "quant/trellis.h"

namespace quire::reference {
namespace {

constexpr uint32_t kMaxTokens = 128;
constexpr uint32_t kMaxStates = 32;
constexpr int kLastTarget = 127;

// Numbers [token][channel] of one side, and where they stand in the chains of its lanes.
template <typename T>
struct Grid {
  Side side;
  SectionShape shape;
  std::array<T, size_t{kMaxTokens} * kMaxDim> numbers{};

  uint32_t lanes() const { return side == Side::kKey ? shape.tokens : shape.dim; }
  uint32_t chain() const { return side == Side::kKey ? shape.dim : shape.tokens; }
  T& at(uint32_t token, uint32_t channel) { return numbers[size_t{token} * shape.dim + channel]; }
  T& in_chain(uint32_t lane, uint32_t place) {
    const uint32_t reduction = chain_reduction(place, chain());
    return side == Side::kKey ? at(lane, reduction) : at(reduction, lane);
  }
};

// One way into a state: its cost, and its number among the ways into that state.
struct Way {
  int32_t cost;
  uint32_t number;
};

struct Paths {
  std::array<int32_t, kMaxStates> cost{};
  std::array<std::array<uint8_t, kMaxStates>, kMaxDim> chosen{};  // [place][state]: the number of the way
};

// The window of way `number` into `state`, and its level.
uint32_t window_of(const Trellis& trellis, uint32_t state, uint32_t number) {
  return state << trellis.history_bits | (number & ((1U << trellis.history_bits) - 1));
}
int32_t level_of(const Trellis& trellis, uint32_t state, uint32_t number) {
  return trellis
      .levels[window_of(trellis, state, number) | number >> trellis.history_bits << trellis.window_bits];
}
uint32_t state_before(const Trellis& trellis, uint32_t window) { return window & (trellis.states() - 1); }

// The best way into `state` at an element whose target is y; the first of equals.
Way best_way(const Trellis& trellis, const Paths& paths, uint32_t state, int32_t y) {
  Way best{0, 0};
  for (uint32_t number = 0; number < 1U << trellis.bits(); ++number) {
    const int32_t level = level_of(trellis, state, number);
    const uint32_t before = state_before(trellis, window_of(trellis, state, number));
    const int32_t cost = paths.cost[before] + level * level - 2 * level * y;
    if (number == 0 || cost < best.cost) best = {cost, number};
  }
  return best;
}

// Continues the paths over `count` places of the ring from `start` on; `chosen` is filled from its beginning.
void advance(const Trellis& trellis, Grid<int8_t>& targets, uint32_t lane, uint32_t start, uint32_t count,
             Paths& paths) {
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t y = targets.in_chain(lane, (start + i) % targets.chain());
    std::array<int32_t, kMaxStates> cost{};
    for (uint32_t state = 0; state < trellis.states(); ++state) {
      const Way way = best_way(trellis, paths, state, y);
      cost[state] = way.cost;
      paths.chosen[i][state] = static_cast<uint8_t>(way.number);
    }
    paths.cost = cost;
  }
}

// The state in which the ring is closed: that of the cheapest path over its end and its beginning.
uint32_t find_seam(const Trellis& trellis, Grid<int8_t>& targets, uint32_t lane) {
  Paths paths;
  advance(trellis, targets, lane, targets.chain() - kSeamReach, 2 * kSeamReach, paths);
  uint32_t state = 0;
  for (uint32_t other = 1; other < trellis.states(); ++other) {
    if (paths.cost[other] < paths.cost[state]) state = other;
  }
  for (uint32_t i = 2 * kSeamReach; i-- > kSeamReach;) {
    state = state_before(trellis, window_of(trellis, state, paths.chosen[i][state]));
  }
  return state;
}

// The codes and levels of the cheapest path of one lane that begins and ends in the seam's state.
void code_lane(const Trellis& trellis, Grid<int8_t>& targets, uint32_t lane, Grid<uint8_t>& codes,
               Grid<int8_t>& levels) {
  constexpr int32_t kClosed = 1 << 25;  // above the cost of any path: 256 * (127^2 + 2 * 127^2) < 2^24
  uint32_t state = find_seam(trellis, targets, lane);
  Paths paths;
  paths.cost.fill(kClosed);
  paths.cost[state] = 0;
  advance(trellis, targets, lane, 0, targets.chain(), paths);
  for (uint32_t place = codes.chain(); place-- > 0;) {
    const uint32_t number = paths.chosen[place][state];
    const uint32_t window = window_of(trellis, state, number);
    const uint32_t history = window >> (trellis.window_bits - trellis.history_bits);
    levels.in_chain(lane, place) = static_cast<int8_t>(level_of(trellis, state, number));
    codes.in_chain(lane, place) =
        static_cast<uint8_t>(history << trellis.rest_bits | number >> trellis.history_bits);
    state = state_before(trellis, window);
  }
}

float sum_of_products(const Row& a, const Row& b, uint32_t dim) {
  Row products{};
  for (uint32_t channel = 0; channel < dim; ++channel) products[channel] = a[channel] * b[channel];
  return sum16(products, dim);
}

// Sets what is to be coded of one token: its residual in level units, 0 where it is negligible. Returns the
// scale that takes it there, 0 where it is.
float set_targets(const Row& residual, uint32_t token, Grid<int8_t>& targets) {
  const uint32_t dim = targets.shape.dim;
  const float energy = sum_of_products(residual, residual, dim);
  const float scale = std::sqrt(energy * (1.0F / static_cast<float>(dim))) / kTrellisUnit;
  if (scale < kNegligible) return 0.0F;
  const float inverse = 1.0F / scale;
  for (uint32_t channel = 0; channel < dim; ++channel) {
    const auto rounded = static_cast<int>(std::nearbyint(residual[channel] * inverse));
    targets.at(token, channel) = static_cast<int8_t>(std::clamp(rounded, -kLastTarget, kLastTarget));
  }
  return scale;
}

// The scale of a token whose levels are found.
float scale_of_levels(const Row& residual, uint32_t token, Grid<int8_t>& levels, float target_scale) {
  const uint32_t dim = levels.shape.dim;
  Row row{};
  for (uint32_t channel = 0; channel < dim; ++channel) row[channel] = levels.at(token, channel);
  return trellis_scale(sum_of_products(residual, residual, dim), sum_of_products(residual, row, dim),
                       target_scale);
}

}  // namespace

uint32_t encode_trellis(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta) {
  if (first == shape.tokens) return 0;
  const Trellis& trellis = trellis_of(codec.bits);
  const int exponent = section_exponent_of(shape, x, first);
  const float down = power_of_two(-exponent);
  const SectionMean mean = section_mean(shape, x, first, down);
  for (uint32_t channel = 0; channel < shape.dim; ++channel) {
    meta[shape.tokens + channel] = static_cast<uint8_t>(mean.codes[channel]);
  }

  Grid<int8_t> targets{side, shape};
  Grid<int8_t> levels{side, shape};
  Grid<uint8_t> chosen{side, shape};
  std::array<float, kMaxTokens> scales{};
  const auto residual = [&](uint32_t token) {
    return residual_of(x + size_t{token} * shape.dim, shape.dim, down, mean);
  };
  for (uint32_t token = first; token < shape.tokens; ++token) {
    scales[token] = set_targets(residual(token), token, targets);
  }
  for (uint32_t lane = 0; lane < targets.lanes(); ++lane) {
    code_lane(trellis, targets, lane, chosen, levels);
  }
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      put_code(codes, side, shape, codec.bits, token, channel, chosen.at(token, channel));
    }
    if (scales[token] > 0.0F) {
      scales[token] = scale_of_levels(residual(token), token, levels, scales[token]);
    }
  }
  ScaleRange range = encode_scales(std::span(scales).first(shape.tokens), meta);
  range.largest += exponent * (1 << kMostMantissaBits);
  return pack_trellis_param(range, mean.step + kStepsPerOctave * exponent);
}

void decode_trellis(const CodecInfo& codec, Side side, SectionShape shape, const SideView& view, float* out) {
  const Trellis& trellis = trellis_of(codec.bits);
  const ScaleRange range = scale_range(view.param);
  const float mean_step = step_value(trellis_mean_step(view.param));
  Grid<int8_t> levels{side, shape};
  for (uint32_t lane = 0; lane < levels.lanes(); ++lane) {
    const auto code_at = [&](uint32_t place) {
      const uint32_t reduction = chain_reduction(place, levels.chain());
      const bool key = side == Side::kKey;
      return get_code(view.codes, side, shape, codec.bits, key ? lane : reduction, key ? reduction : lane);
    };
    uint32_t window = 0;
    for (uint32_t place = levels.chain() - trellis.window_bits; place < levels.chain(); ++place) {
      window = next_window(trellis, window, code_at(place));
    }
    for (uint32_t place = 0; place < levels.chain(); ++place) {
      window = next_window(trellis, window, code_at(place));
      levels.in_chain(lane, place) = trellis.levels[level_index(trellis, window, code_at(place))];
    }
  }
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    const float scale = scale_of(range, view.meta[token]);
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      const auto mean_code = static_cast<float>(static_cast<int8_t>(view.meta[shape.tokens + channel]));
      out[size_t{token} * shape.dim + channel] =
          static_cast<float>(levels.at(token, channel)) * scale + mean_code * mean_step;
    }
  }
}

}  // namespace quire::reference
