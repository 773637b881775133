// Scores from folded keys and outputs from folded values: the integer products and what surrounds them.
// Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/quad_dot-inl.h"
#include "quant/cpu/softmax-inl.h"
#include "quant/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// scores = score_scale * token scale * sum over channels of query integer * level + score_offset.
template <Form kForm, bool kTokenScales, int kRows, class Shape>
void score_quads(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  [[maybe_unused]] const float* token_scale = tile.section.key_token_scale;
  quad_dot<Side::kKey, kForm, true, kRows, Shape::kTokenStep>(
      tile.section.key, shape.dim() / 4, shape.tokens(),
      block.query, [&](int r) __attribute__((always_inline)) { return block.query_offset[r]; },
      [&]<int kSums>(int first, uint32_t token, const Ints(&sums)[kSums]) __attribute__((always_inline)) {
        const Floats scale = kTokenScales ? load(token_scale + token) : splat(1.0F);
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
          const int r = first + i;
          const Floats sum = kTokenScales ? to_floats(sums[i]) * scale : to_floats(sums[i]);
          store(mul_add(sum, splat(block.score_scale[r]), splat(block.score_offset[r])),
                tile.scores + static_cast<uint32_t>(r) * shape.tokens() + token);
        }
      });
}

// A weight above this share of the sum of all before its section is worth 16 bits.
inline constexpr float kDominantShare = 1.0F / 8;

// Whether weights of 8 bits take fewer instructions than those of 16.
inline constexpr bool kHasCoarse = Product<Side::kValue, false>::kParts < Product<Side::kValue, true>::kParts;

// How a section's weights become integers, up to `tops` of each row: weight_top and weight_scale.
HWY_INLINE void scale_weights(const Section& section, Floats largest_log2, Floats tops, RowBlock& block) {
  // Beyond 100 octaves below the maximum, what a section adds is lost in the rounding of o.
  const Floats octaves = min(load(block.m) - largest_log2, splat(100.0F));
  store(tops * exp2(octaves), block.weight_top);
  store(splat(section.value_factor) / tops * exp2(splat(0.0F) - octaves), block.weight_scale);
}

// Weights of 8 bits, relative to the section's largest, serve 4 bits and below (kFewBits), except where few
// tokens dominate: then errors of all others, relative to the output, would reach a percent. Only the row
// decides; a row of 8 bits gets the same sums from either product. True when some row needs the precise
// product. What came before the section must be in l.
template <bool kFewBits, int kRows>
HWY_INLINE bool choose_precision(const Section& section, const SectionMaxima& maxima, RowBlock& block) {
  using Coarse = Product<Side::kValue, false>;
  using Precise = Product<Side::kValue, true>;
  const Floats fine = splat(Precise::kWeightTop);
  if constexpr (kFewBits && kHasCoarse) {
    const Floats peak = exp2(max(maxima.score - load(block.m), splat(-200.0F)));
    const Floats limit = select(lane_index() < splat(kRows), load(block.l) * splat(kDominantShare), peak);
    const Mask dominated = limit < peak;
    scale_weights(section, maxima.scaled, select(dominated, fine, splat(Coarse::kWeightTop)), block);
    return any_true(dominated);
  } else {
    scale_weights(section, maxima.scaled, fine, block);
    return true;
  }
}

// The weights of one row as operands of the value product.
template <bool kFewBits, bool kPrecise, bool kMids, bool kMasked, class Shape>
HWY_INLINE RowSums weigh_row_in_quads(const Tile& tile, const RowBlock& block, int r) {
  constexpr Exp2 kExp2 = kFewBits ? Exp2::kRough : Exp2::kFull;
  using Dot = Product<Side::kValue, kPrecise>;
  const Shape shape(tile.shape);
  const uint32_t quads = shape.tokens() / 4;
  int32_t* operands = tile.weight_operands + static_cast<uint32_t>(r) * Dot::kParts * quads;
  const float* token_scale = tile.section.value_token_scale;
  const Floats top = splat(block.weight_top[r]);
  return weigh_row<kExp2, kMids, kMasked>(
      tile.scores, tile.section.value_mid, block, r,
      shape.tokens(), [&](uint32_t token, Floats weight) __attribute__((always_inline)) {
        store_weights<kPrecise>(to_ints(weight * load(token_scale + token) * top), operands, token, quads);
      });
}

template <bool kFewBits, bool kPrecise, bool kMids, bool kMasked, int kRows, class Shape>
HWY_INLINE void weigh_rows_in_quads(Tile& tile, RowBlock& block) {
  RowSums sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    sums[r] = weigh_row_in_quads<kFewBits, kPrecise, kMids, kMasked, Shape>(tile, block, r);
  }
  add_sums<kMids>(sums, tile.section.value_factor, block);
}

// Scores to operands of the value product; true for those of the precise one. A call of its own, a nanosecond
// in hundreds: all codecs of few bits share it.
template <bool kFewBits, bool kMids, bool kMasked, int kRows, class Shape>
HWY_NOINLINE bool weigh_in_quads(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  RowMaxima maxima[kRows];
  for (int r = 0; r < kRows; ++r) {
    maxima[r] = row_maxima<kMasked>(tile.scores, tile.section.value_token_log2, block, r, shape.tokens());
  }
  const SectionMaxima section = reduce_maxima(maxima);
  raise_maximum<kRows>(tile, block, section.score);
  const bool precise = choose_precision<kFewBits, kRows>(tile.section, section, block);
  if (precise) {
    weigh_rows_in_quads<kFewBits, true, kMids, kMasked, kRows, Shape>(tile, block);
  } else if constexpr (kFewBits && kHasCoarse) {
    weigh_rows_in_quads<kFewBits, false, kMids, kMasked, kRows, Shape>(tile, block);
  }
  return precise;
}

// o += weights * values, and the mean where there are no midpoints. A call of its own: weights with and
// without masks share it.
template <Form kForm, bool kPrecise, bool kMids, int kRows, class Shape>
HWY_NOINLINE void accumulate_quads(Tile& tile, const RowBlock& block) {
  const Shape shape(tile.shape);
  [[maybe_unused]] const float* offset = tile.section.value_offset;
  float* const o = tile.o + size_t{block.first} * shape.dim();
  quad_dot<Side::kValue, kForm, kPrecise, kRows, Shape::kDimStep>(
      tile.section.value, shape.tokens() / 4, shape.dim(), tile.weight_operands,
      [](int) __attribute__((always_inline)) { return 0; },
      [&]<int kSums>(int first, uint32_t channel, const Ints(&sums)[kSums]) __attribute__((always_inline)) {
        [[maybe_unused]] Floats channel_offset;
        if constexpr (!kMids) channel_offset = load(offset + channel);
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
          const int r = first + i;
          float* at = o + static_cast<uint32_t>(r) * shape.dim() + channel;
          Floats out = mul_add(to_floats(sums[i]), splat(block.weight_scale[r]), load(at));
          if constexpr (!kMids) out = mul_add(splat(block.offset_weight[r]), channel_offset, out);
          store(out, at);
        }
      });
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
