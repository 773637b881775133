// A block of query rows: what is known of each row, one lane per row.
//
// Lanes at and above the number of rows hold copies or junk and are never read back. Thread
// safety: plain data.
#pragma once

#include "quant/cpu/exp2-inl.h"
#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

using PerRow = float[kLanes];

// Lives in the caller's scratch for the length of one call.
struct alignas(64) RowBlock {
  PerRow m;  // the state of AttendState
  PerRow l;
  PerRow score_scale;  // score = score_scale * key sum + score_offset, in log2 units
  PerRow score_offset;
  PerRow weight_top;  // integers of weights: 2^(score - m) * token scale * weight_top
  // o += weight_scale * value sum, and of values with a mean offset_weight * value_offset.
  PerRow weight_scale;
  PerRow offset_weight;
  PerRow offset;              // of values with midpoints: what is to be added to all channels of o in the end
  PerRow query_scale;         // q = query_scale * its integers
  int32_t query_sum[kLanes];  // the sum of its integers
  int32_t query_offset[kLanes];  // -kKeyBias * that sum
  int32_t begin[kLanes];         // visible tokens of a masked section
  int32_t end[kLanes];
  int32_t* query;  // operands of the key product: [rows][2][dim / 4]
  uint32_t first;  // row of the tile
  uint32_t rows;
};

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
