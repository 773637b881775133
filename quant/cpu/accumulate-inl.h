// Scores from folded keys and outputs from folded values: the integer products and what surrounds them.
// Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/quad_dot-inl.h"
#include "quant/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// tile.scores = token scale * sum over channels of query integer * level.
template <uint32_t kBits, int kRows, class Shape>
void score_quads(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const float* token_scale = tile.section.key_token_scale;
  float* const scores = tile.scores;
  quad_dot<Side::kKey, kBits, true, kRows, columns_for<Side::kKey, true, kRows>(Shape::kTokenStep)>(
      tile.section.key, shape.dim() / 4, shape.tokens(),
      block.query, [&](int r) __attribute__((always_inline)) { return block.query_offset[r]; },
      [&](int r, uint32_t token, Ints sum) __attribute__((always_inline)) {
        store(to_floats(sum) * load(token_scale + token),
              scores + static_cast<uint32_t>(r) * shape.tokens() + token);
      });
}

// o += weights * values. The weights of tile.scores become integers up to each row's `tops`.
template <uint32_t kBits, bool kPrecise, int kRows, class Shape>
HWY_INLINE void accumulate_quads(Tile& tile, RowBlock& block, Floats largest, Floats tops) {
  using Dot = Product<Side::kValue, kPrecise>;
  const Shape shape(tile.shape);
  const uint32_t quads = shape.tokens() / 4;
  alignas(64) PerRow inverse;
  const Floats scale = tops / max(largest, splat(1e-30F));
  store(scale, inverse);
  store(splat(tile.section.value_factor) / scale, block.weight_scale);
  for (int r = 0; r < kRows; ++r) {
    const float* weights = tile.scores + static_cast<uint32_t>(r) * shape.tokens();
    int32_t* operands = tile.weight_operands + static_cast<uint32_t>(r) * Dot::kParts * quads;
    const Floats row_scale = splat(inverse[r]);
    for (uint32_t t = 0; t < shape.tokens(); t += kLanes) {
      store_weights<kPrecise>(to_ints(load(weights + t) * row_scale), operands, t, quads);
    }
  }
  const float* offset = tile.section.value_offset;
  float* const o = tile.o + size_t{block.first} * shape.dim();
  quad_dot<Side::kValue, kBits, kPrecise, kRows, columns_for<Side::kValue, kPrecise, kRows>(Shape::kDimStep)>(
      tile.section.value, quads, shape.dim(), tile.weight_operands,
      [](int) __attribute__((always_inline)) { return 0; },
      [&](int r, uint32_t channel, Ints sum) __attribute__((always_inline)) {
        float* at = o + static_cast<uint32_t>(r) * shape.dim() + channel;
        const Floats out = mul_add(to_floats(sum), splat(block.weight_scale[r]), load(at));
        store(mul_add(splat(block.offset_weight[r]), load(offset + channel), out), at);
      });
}

// A weight that makes up this share of a row's sum so far is worth 16 bits.
inline constexpr float kDominantShare = 1.0F / 32;

// Weights of 8 bits, relative to the section's largest, serve 4 bits and below, except where few tokens
// dominate: then errors of all others, relative to the output, would reach a percent. Only the row decides; a
// row of 8 bits gets the same sums from either product.
template <uint32_t kBits, int kRows, class Shape>
HWY_INLINE void accumulate(Tile& tile, RowBlock& block, const PerRow& largest) {
  using Coarse = Product<Side::kValue, false>;
  using Precise = Product<Side::kValue, true>;
  const Floats most = load(largest);
  const Floats fine = splat(Precise::kWeightTop);
  if constexpr (kBits < 8 && Coarse::kParts < Precise::kParts) {
    const Mask dominated = load(block.l) * splat(kDominantShare) < load(block.peak);
    const Floats coarse = splat(Coarse::kWeightTop);
    if (!any_true(dominated)) return accumulate_quads<kBits, false, kRows, Shape>(tile, block, most, coarse);
    return accumulate_quads<kBits, true, kRows, Shape>(tile, block, most, select(dominated, fine, coarse));
  } else {
    accumulate_quads<kBits, true, kRows, Shape>(tile, block, most, fine);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
