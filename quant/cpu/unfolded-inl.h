// Attention over unfolded tokens in f32: tails and sinks. Thread safety: touches only its arguments.
#pragma once

#include "quant/cpu/float_dot-inl.h"
#include "quant/cpu/query-inl.h"
#include "quant/cpu/softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Unfolded tokens: f32 [tokens][dim] each.
struct FloatRows {
  const float* keys;
  const float* values;
  uint32_t tokens;
};

// Visibility must be set. tile.shape.tokens is rows.tokens rounded up to lanes.
template <int kRows>
void attend_block_rows(Tile& tile, RowBlock& block, const FloatRows& rows) {
  const uint32_t dim = tile.shape.dim;
  const uint32_t padded = tile.shape.tokens;
  for (uint32_t r = 0; r < kRows; ++r) {
    score_row_major(rows.keys, rows.tokens, dim, tile.q + (size_t{block.first} + r) * dim,
                    tile.scores + r * padded);
  }
  weigh_in_floats<kRows, true>(tile, block, padded);
  const uint8_t* values = reinterpret_cast<const uint8_t*>(rows.values);
  float_dot<false, kRows, float_columns_for<kRows>(AnyShape::kDimStep)>(
      values, values, rows.tokens, dim, tile.scores,
      padded, [&](int r, uint32_t channel, Floats sum) __attribute__((always_inline)) {
        add_to_output(tile, block, r, channel, sum);
      });
}

inline void attend_rows(Tile tile, const FloatRows& rows) {
  tile.shape.tokens = round_up_to_lanes(rows.tokens);
  for (RowBlock& block : tile.row_blocks()) {
    switch (block.rows) {
      case 1:
        attend_block_rows<1>(tile, block, rows);
        break;
      case 2:
        attend_block_rows<2>(tile, block, rows);
        break;
      case 4:
        attend_block_rows<4>(tile, block, rows);
        break;
      default:
        attend_block_rows<kMaxBlockRows>(tile, block, rows);
        break;
    }
  }
}

inline void attend_unfolded(const UnfoldedRows& unfolded, const QueryTile& query, uint32_t dim,
                            const AttendState& state, uint8_t* scratch) {
  if (unfolded.tokens == 0) return;
  Tile tile = make_tile(query, {unfolded.tokens, dim}, state, scratch);
  for (RowBlock& block : tile.row_blocks()) {
    for (uint32_t r = 0; r < kLanes; ++r) {
      block.begin[r] = r < block.rows ? unfolded.begin[block.first + r] : 0;
      block.end[r] = r < block.rows ? unfolded.end[block.first + r] : 0;
    }
  }
  attend_rows(tile, {unfolded.keys, unfolded.values, unfolded.tokens});
  store_state(tile, state);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
