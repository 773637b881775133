// Scores of one section to weights, with the running maximum and sum of each row.
//
// Per-row numbers are handled one lane per row: the maxima and sums of up to eight rows are reduced together.
// What the values' product needs to know of the weights, the largest of weight * token scale, is found in the
// logarithm before any weight is: so weights go from exp2 to their final form without being stored between.
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

// Sets the tokens that each row sees; false when every row sees all of them.
inline bool set_visible(Tile& tile, const int32_t* first_token, int32_t least, uint32_t tokens) {
  bool masked = false;
  for (RowBlock& block : tile.row_blocks()) {
    for (uint32_t r = 0; r < kLanes; ++r) {
      const bool real = r < block.rows;
      const int32_t from = real && first_token != nullptr ? first_token[block.first + r] : 0;
      block.begin[r] = from > least ? from : least;
      block.end[r] = real ? static_cast<int32_t>(tokens) : 0;
      masked |= real && block.begin[r] > 0;
    }
  }
  return masked;
}

// Of one row and section, sixteen lanes to be reduced.
struct RowMaxima {
  Floats score;   // in log2 units; the lowest number where nothing is seen
  Floats scaled;  // of score + log2(token scale)
};
struct RowSums {
  Floats weight;
  Floats mid;  // of weight * midpoint
};

// token_log2: log2 of each token's scale.
template <bool kMasked>
HWY_INLINE RowMaxima row_maxima(const float* scores, const float* token_log2, const RowBlock& block, int r,
                                uint32_t tokens) {
  RowMaxima best{splat(kLowest), splat(kLowest)};
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    Floats score = load(scores + static_cast<uint32_t>(r) * tokens + t);
    if constexpr (kMasked) score = select(visible(block, r, t), score, splat(kLowest));
    best.score = max(best.score, score);
    best.scaled = max(best.scaled, score + load(token_log2 + t));
  }
  return best;
}

// Calls emit(token, weights) for sixteen tokens at a time: 2^(score - m), where m is at least every visible
// score. value_mid: [tokens], read where kMids.
template <Exp2 kPrecision, bool kMids, bool kMasked, class Emit>
HWY_INLINE RowSums weigh_row(const float* scores, const float* value_mid, const RowBlock& block, int r,
                             uint32_t tokens, Emit emit) {
  const Floats maximum = splat(block.m[r]);
  RowSums sums{splat(0.0F), splat(0.0F)};
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    Floats weight = exp2<kPrecision>(load(scores + static_cast<uint32_t>(r) * tokens + t) - maximum);
    if constexpr (kMasked) weight = select(visible(block, r, t), weight, splat(0.0F));
    sums.weight = sums.weight + weight;
    if constexpr (kMids) sums.mid = mul_add(weight, load(value_mid + t), sums.mid);
    emit(t, weight);
  }
  return sums;
}

// One lane per row.
struct SectionMaxima {
  Floats score;
  Floats scaled;
};

template <int kRows>
HWY_INLINE SectionMaxima reduce_maxima(const RowMaxima (&rows)[kRows]) {
  Floats score[kRows];
  Floats scaled[kRows];
  for (int r = 0; r < kRows; ++r) {
    score[r] = rows[r].score;
    scaled[r] = rows[r].scaled;
  }
  return {reduce_rows<MaxOp>(score), reduce_rows<MaxOp>(scaled)};
}

// Adds a section's weights to l. They are those of the section's offset; where there are midpoints, in units
// of mid_factor, what these come to is added to the rows' offset instead.
template <bool kMids, int kRows>
HWY_INLINE void add_sums(const RowSums (&rows)[kRows], float mid_factor, RowBlock& block) {
  Floats weight[kRows];
  Floats mid[kRows];
  for (int r = 0; r < kRows; ++r) {
    weight[r] = rows[r].weight;
    mid[r] = rows[r].mid;
  }
  const Floats sums = reduce_rows<AddOp>(weight);
  store(load(block.l) + sums, block.l);
  if constexpr (kMids) {
    store(mul_add(reduce_rows<AddOp>(mid), splat(mid_factor), load(block.offset)), block.offset);
  } else {
    store(sums, block.offset_weight);
  }
}

// Takes the rows' state to a section's maxima: multiplies what was gathered by 2^(old - new). Rare after the
// first sections.
template <int kRows>
HWY_INLINE void raise_maximum(Tile& tile, RowBlock& block, Floats section_maximum) {
  const Floats from = load(block.m);
  const Floats to = max(from, section_maximum);
  if (!any_true(from < to)) return;
  alignas(64) PerRow factors;
  const Floats factor = select(from < to, exp2(max(from - to, splat(-200.0F))), splat(1.0F));
  store(factor, factors);
  store(to, block.m);
  store(load(block.l) * factor, block.l);
  store(load(block.offset) * factor, block.offset);
  for (int r = 0; r < kRows; ++r) {
    if (factors[r] == 1.0F) continue;
    float* o = tile.o + (size_t{block.first} + static_cast<uint32_t>(r)) * tile.shape.dim;
    for (uint32_t c = 0; c < tile.shape.dim; c += kLanes) store(load(o + c) * splat(factors[r]), o + c);
  }
}

// For values in f32: scores become weights.
template <int kRows, bool kMasked>
HWY_INLINE void weigh_in_floats(Tile& tile, RowBlock& block, uint32_t tokens) {
  RowMaxima maxima[kRows];
  for (int r = 0; r < kRows; ++r) {
    maxima[r] = row_maxima<kMasked>(tile.scores, tile.zeros, block, r, tokens);
  }
  raise_maximum<kRows>(tile, block, reduce_maxima(maxima).score);
  RowSums sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* row = tile.scores + static_cast<uint32_t>(r) * tokens;
    sums[r] = weigh_row<Exp2::kFull, false, kMasked>(
        tile.scores, nullptr, block, r,
        tokens, [&](uint32_t token, Floats weight) __attribute__((always_inline)) {
          store(weight, row + token);
        });
  }
  add_sums<false>(sums, 0.0F, block);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
