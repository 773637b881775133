// Scores of one section to weights, with the running maximum and sum of each row.
//
// Per-row numbers are handled one lane per row: the maxima and sums of up to eight rows are reduced together.
// Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/exp2-inl.h"
#include "quant/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr float kLowest = -3.0e38F;

// Tokens [begin, end) of row r are visible; others get weight 0 whatever their score.
HWY_INLINE Mask visible(const RowBlock& block, int r, uint32_t token) {
  const Ints t = lane_index() + splat(static_cast<int32_t>(token));
  const Ints kept = select(t < splat(block.begin[r]), splat(0), splat(1));
  return splat(0) < select(t < splat(block.end[r]), kept, splat(0));
}

// The largest score of each row in log2 units; the lowest number for a row that sees nothing.
template <bool kMasked>
HWY_INLINE Floats section_maximum(const RowBlock& block, Floats best) {
  const Floats here = mul_add(best, load(block.score_scale), load(block.score_offset));
  if constexpr (!kMasked) return here;
  return select(load(block.begin) < load(block.end), here, splat(-HUGE_VALF));
}

// Multiplies what a row has gathered by 2^(old maximum - new maximum). Rare after the first sections.
template <int kRows>
HWY_INLINE void lower_state(Tile& tile, RowBlock& block, Floats before, Floats after, uint32_t dim) {
  if (!any_true(before < after)) return;
  alignas(64) PerRow factors;
  const Floats factor = select(before < after, exp2(max(before - after, splat(-200.0F))), splat(1.0F));
  store(factor, factors);
  store(load(block.l) * factor, block.l);
  for (int r = 0; r < kRows; ++r) {
    if (factors[r] == 1.0F) continue;
    float* o = tile.o + (size_t{block.first} + static_cast<uint32_t>(r)) * dim;
    for (uint32_t c = 0; c < dim; c += kLanes) store(load(o + c) * splat(factors[r]), o + c);
  }
}

// In: tile.scores, score_scale and score_offset. Out: tile.scores holds weight * token scale of each token,
// `largest` their maximum per row; m, l, peak, offset_weight (the sum of weights, or of weights times
// midpoints where kMids) are brought up to date, and o is lowered to the new maximum.
template <int kRows, bool kMids, bool kMasked>
HWY_INLINE void softmax(Tile& tile, RowBlock& block, uint32_t tokens, const float* token_scale,
                        PerRow& largest) {
  float* const scores = tile.scores;
  Floats best[kRows];
  for (int r = 0; r < kRows; ++r) {
    best[r] = splat(kLowest);
    for (uint32_t t = 0; t < tokens; t += kLanes) {
      Floats score = load(scores + static_cast<uint32_t>(r) * tokens + t);
      if constexpr (kMasked) score = select(visible(block, r, t), score, splat(kLowest));
      best[r] = max(best[r], score);
    }
  }
  const Floats before = load(block.m);
  const Floats here = section_maximum<kMasked>(block, reduce_rows<MaxOp>(best));
  const Floats after = max(before, here);
  lower_state<kRows>(tile, block, before, after, tile.shape.dim);
  store(after, block.m);
  const Mask real = lane_index() < splat(kRows);
  store(select(real, exp2(max(here - after, splat(-200.0F))), splat(0.0F)), block.peak);
  alignas(64) PerRow shift;
  store(load(block.score_offset) - after, shift);

  Floats sum[kRows];
  Floats mid[kRows];
  Floats top[kRows];
  for (int r = 0; r < kRows; ++r) {
    sum[r] = mid[r] = top[r] = splat(0.0F);
    for (uint32_t t = 0; t < tokens; t += kLanes) {
      float* at = scores + static_cast<uint32_t>(r) * tokens + t;
      Floats weight = exp2(mul_add(load(at), splat(block.score_scale[r]), splat(shift[r])));
      if constexpr (kMasked) weight = select(visible(block, r, t), weight, splat(0.0F));
      sum[r] = sum[r] + weight;
      if constexpr (kMids) mid[r] = mul_add(weight, load(tile.section.value_mid + t), mid[r]);
      const Floats scaled = weight * load(token_scale + t);
      top[r] = max(top[r], scaled);
      store(scaled, at);
    }
  }
  const Floats sums = reduce_rows<AddOp>(sum);
  store(load(block.l) + sums, block.l);
  store(kMids ? reduce_rows<AddOp>(mid) : sums, block.offset_weight);
  store(reduce_rows<MaxOp>(top), largest);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
