// Queries as integers: q = query_scale * (16-bit integer), once per call for rotated keys, once per section
// for uniform keys, whose channel scales are folded in. Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/quad_dot-inl.h"
#include "quant/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// The scale of each row's integers and what multiplies it to them, given its largest magnitude.
HWY_INLINE Floats set_query_scale(Floats largest, RowBlock& block) {
  const Floats top = max(largest, splat(1e-30F));  // a row of zeros
  store(top * splat(1.0F / kQueryTop), block.query_scale);
  return splat(kQueryTop) / top;
}

// Integers of a query, rounded, as store_query takes them.
HWY_INLINE Ints biased_query(Floats x, Floats factor) { return to_ints(x * factor) + splat(kQueryBias); }

// sums: of rows of biased integers.
template <int kRows>
HWY_INLINE void set_query_sums(const Ints (&sums)[kRows], uint32_t dim, RowBlock& block) {
  PartialSums folded[kRows];
  for (int r = 0; r < kRows; ++r) folded[r] = fold_sum(sums[r]);
  const Ints sum = sum_rows<kRows>(folded) - splat(kQueryBias * static_cast<int32_t>(dim));
  store(sum, block.query_sum);
  store(sum * splat(-kKeyBias), block.query_offset);
}

// Float keys: scores are what they are.
inline void plain_query(Tile&, RowBlock&) {}

// Rotated keys: once per call.
template <int kRows, class Shape>
void quantise_queries(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const uint32_t quads = shape.dim() / 4;
  const float* q = tile.q + size_t{block.first} * shape.dim();
  Floats largest[kRows];
  for (int r = 0; r < kRows; ++r) {
    largest[r] = splat(0.0F);
    for (uint32_t c = 0; c < shape.dim(); c += kLanes) {
      largest[r] = max(largest[r], abs(load(q + static_cast<uint32_t>(r) * shape.dim() + c)));
    }
  }
  alignas(64) PerRow factors;
  store(set_query_scale(reduce_rows<MaxOp>(largest), block), factors);
  Ints sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    const float* row = q + static_cast<uint32_t>(r) * shape.dim();
    const Floats factor = splat(factors[r]);
    sums[r] = splat(0);
    for (uint32_t c = 0; c < shape.dim(); c += 2 * kLanes) {
      const Ints low = biased_query(load(row + c), factor);
      const Ints high = biased_query(load(row + c + kLanes), factor);
      sums[r] = sums[r] + low + high;
      store_query(low, high, block.query + static_cast<uint32_t>(r) * 2 * quads, c, quads);
    }
  }
  set_query_sums<kRows>(sums, shape.dim(), block);
}

// Uniform keys: score = factor * (unit * query_scale * sum of integers * levels + sum of q * mid), for one
// section, whose channel scales are folded into the integers.
template <int kRows, class Shape>
void fold_queries(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const Section& section = tile.section;
  const uint32_t quads = shape.dim() / 4;
  const float* q = tile.q + size_t{block.first} * shape.dim();
  Floats largest[kRows];
  Floats mid[kRows];
  for (int r = 0; r < kRows; ++r) largest[r] = mid[r] = splat(0.0F);
  for (uint32_t c = 0; c < shape.dim(); c += kLanes) {
    const Floats scale = load_f16(section.key_scale_halves + c);
    const Floats middle = load_f16(section.key_mid_halves + c);
    for (int r = 0; r < kRows; ++r) {
      const Floats x = load(q + static_cast<uint32_t>(r) * shape.dim() + c);
      mid[r] = mul_add(x, middle, mid[r]);
      largest[r] = max(largest[r], abs(x * scale));
    }
  }
  alignas(64) PerRow factors;
  store(set_query_scale(reduce_rows<MaxOp>(largest), block), factors);
  // The products are computed again: that costs less than to store them.
  Ints sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = splat(0);
  for (uint32_t c = 0; c < shape.dim(); c += 2 * kLanes) {
    const Floats left = load_f16(section.key_scale_halves + c);
    const Floats right = load_f16(section.key_scale_halves + c + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float* row = q + static_cast<uint32_t>(r) * shape.dim() + c;
      const Floats factor = splat(factors[r]);
      const Ints low = biased_query(load(row) * left, factor);
      const Ints high = biased_query(load(row + kLanes) * right, factor);
      sums[r] = sums[r] + low + high;
      store_query(low, high, block.query + static_cast<uint32_t>(r) * 2 * quads, c, quads);
    }
  }
  set_query_sums<kRows>(sums, shape.dim(), block);

  const Floats factor = splat(section.key_factor);
  const Floats scale = load(block.query_scale) * splat(section.key_unit);
  const Floats centre = to_floats(load(block.query_sum)) * splat(section.key_centre);
  store(scale * factor, block.score_scale);
  store(mul_add(centre, scale, reduce_rows<AddOp>(mid)) * factor, block.score_offset);
}

// Rotated keys: score = scales * sum of integers * levels + q . mean, for one section.
template <int kRows, class Shape>
void dot_means(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const Section& section = tile.section;
  const uint32_t quads = shape.dim() / 4;
  PartialSums sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    sums[r] = query_dot_means(block.query + static_cast<uint32_t>(r) * 2 * quads, section.key_means, quads);
  }
  const Floats dot = to_floats(sum_rows<kRows>(sums) + load(block.query_offset));
  const Floats scale = load(block.query_scale);
  store(scale * splat(section.key_factor), block.score_scale);
  store(dot * (scale * splat(section.key_mean_step)), block.score_offset);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
