// What outliers add to scores and outputs: one product per lane, its other factor looked up by index, so that
// nothing branches. Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/softmax-inl.h"
#include "quant/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// scores[t] += q[channel of t's outlier] * outlier of t.
template <int kRows, class Shape>
void score_outliers(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const Section& section = tile.section;
  for (uint32_t t = 0; t < shape.tokens(); t += kLanes) {
    const Ints channel = load(section.key_outlier_channel + t);
    const Floats outlier = load(section.key_outlier + t);
    for (int r = 0; r < kRows; ++r) {
      const float* q = tile.q + (size_t{block.first} + static_cast<uint32_t>(r)) * shape.dim();
      float* at = tile.scores + static_cast<uint32_t>(r) * shape.tokens() + t;
      store(mul_add(pick(q, shape.dim(), channel), outlier, load(at)), at);
    }
  }
}

// o[c] += weight of the token of c's outlier * outlier of c. Weights are computed again: the products' own
// are integers by now.
template <int kRows, class Shape, bool kMasked>
void weigh_outliers(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const Section& section = tile.section;
  alignas(64) float weights[kMaxTokens];
  for (int r = 0; r < kRows; ++r) {
    const float* scores = tile.scores + static_cast<uint32_t>(r) * shape.tokens();
    const Floats maximum = splat(block.m[r]);
    for (uint32_t t = 0; t < shape.tokens(); t += kLanes) {
      Floats weight = exp2(load(scores + t) - maximum);
      if constexpr (kMasked) weight = select(visible(block, r, t), weight, splat(0.0F));
      store(weight, weights + t);
    }
    float* o = tile.o + (size_t{block.first} + static_cast<uint32_t>(r)) * shape.dim();
    for (uint32_t c = 0; c < shape.dim(); c += kLanes) {
      const Floats weight = pick(weights, shape.tokens(), load(section.value_outlier_token + c));
      store(mul_add(weight, load(section.value_outlier + c), load(o + c)), o + c);
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
