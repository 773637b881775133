// Queries as integers: q = query_scale * (16-bit integer), once per call for rotated keys, once per section
// for uniform keys, whose channel scales are folded in. Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/quad_dot-inl.h"
#include "quant/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Writes block.query, query_scale, query_sum and query_offset, given the largest magnitude of each row.
// row_at(r, c) gives sixteen elements of a row.
template <int kRows, class Shape, class RowAt>
HWY_INLINE void quantise_rows(Shape shape, RowAt row_at, Floats largest, RowBlock& block) {
  const uint32_t quads = shape.dim() / 4;
  const Floats top = max(largest, splat(1e-30F));  // a row of zeros
  alignas(64) PerRow inverse;
  store(splat(kQueryTop) / top, inverse);
  store(top * splat(1.0F / kQueryTop), block.query_scale);
  PartialSums sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    int32_t* operands = block.query + static_cast<uint32_t>(r) * 2 * quads;
    const Floats factor = splat(inverse[r]);
    Ints sum = splat(0);
    for (uint32_t c = 0; c < shape.dim(); c += 2 * kLanes) {
      const Ints low = to_ints(row_at(r, c) * factor);
      const Ints high = to_ints(row_at(r, c + kLanes) * factor);
      sum = sum + low + high;
      store_query(low, high, operands, c, quads);
    }
    sums[r] = fold_sum(sum);
  }
  const Ints sum = sum_rows<kRows>(sums);
  store(sum, block.query_sum);
  store(sum * splat(-kKeyBias), block.query_offset);
}

// Float keys: scores are what they are.
inline void plain_query(Tile&, RowBlock&) {}

// Rotated keys: once per call.
template <int kRows, class Shape>
void quantise_queries(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const float* q = tile.q + size_t{block.first} * shape.dim();
  Floats largest[kRows];
  for (int r = 0; r < kRows; ++r) {
    largest[r] = splat(0.0F);
    for (uint32_t c = 0; c < shape.dim(); c += kLanes) {
      largest[r] = max(largest[r], abs(load(q + static_cast<uint32_t>(r) * shape.dim() + c)));
    }
  }
  quantise_rows<kRows>(
      shape,
      [&](int r, uint32_t c)
          __attribute__((always_inline)) { return load(q + static_cast<uint32_t>(r) * shape.dim() + c); },
      reduce_rows<MaxOp>(largest), block);
}

// Uniform keys: score = factor * (query_scale * sum of integers * levels + sum of q * mid), for one section.
template <int kRows, class Shape>
void fold_queries(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  const Section& section = tile.section;
  const float* q = tile.q + size_t{block.first} * shape.dim();
  Floats largest[kRows];
  Floats mid[kRows];
  for (int r = 0; r < kRows; ++r) largest[r] = mid[r] = splat(0.0F);
  for (uint32_t c = 0; c < shape.dim(); c += kLanes) {
    const Floats channel_scale = load(section.key_channel_scale + c);
    const Floats channel_mid = load(section.key_channel_mid + c);
    for (int r = 0; r < kRows; ++r) {
      const uint32_t at = static_cast<uint32_t>(r) * shape.dim() + c;
      const Floats x = load(q + at);
      mid[r] = mul_add(x, channel_mid, mid[r]);
      largest[r] = max(largest[r], abs(x * channel_scale));
    }
  }
  // The products are computed again: that costs less than to store them.
  quantise_rows<kRows>(
      shape,
      [&](int r, uint32_t c) __attribute__((always_inline)) {
        return load(q + static_cast<uint32_t>(r) * shape.dim() + c) * load(section.key_channel_scale + c);
      },
      reduce_rows<MaxOp>(largest), block);

  const Floats factor = splat(section.key_factor);
  const Floats scale = load(block.query_scale);
  Floats offset = reduce_rows<AddOp>(mid);
  const Floats sum = to_floats(load(block.query_sum));
  offset = mul_add(sum, scale * splat(section.key_centre), offset);
  store(scale * factor, block.score_scale);
  store(offset * factor, block.score_offset);
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
