// What a warp does with its rows and an unpacked section: scores, weights, values. Its rows are kTiles
// operands of sixteen; a thread has rows g and g + 8 (operands.cuh) of each, counted [2 tile + half], and, of
// a section's scores, token 32 (k / 8) + 8 i + k % 8 in element k. Two tiles to a warp halve what operands of
// keys and values cost: shared memory would be the bound.
//
// Queries and weights have 8 bits, a query relative to its row's largest element, a weight to the row's
// largest of the section; rotated keys have no outstanding channels, so what a query loses is a tenth of what
// a key of 4 bits has lost. Sums of integers start at kSumBits and are floats thus without a conversion. Of
// keys the excess goes with the multiplication by the token's scale; of values it stays in the outputs for up
// to kMeansAtOnce sections, its weight counted beside, and leaves them together with the means' turn: these
// are multiplied for as many sections by a matrix instruction.
#pragma once

#include "quant/cuda/prefill_section.cuh"
#include "quant/cuda/rotate_across.cuh"
#include "quant/cuda/warp_rows.cuh"

namespace quire::cuda {

inline constexpr int kTiles = 2;  // of sixteen rows, to a warp
inline constexpr int kRowsOfThread = 2 * kTiles;
inline constexpr uint32_t kWarpRows = 16 * kTiles;
inline constexpr int kTokensOfThread = 16;

// What of a warp's rows lies in shared memory, since registers are what everything has to fit in.
struct RowsInShared {
  uint4* operands;  // [tiles][blocks of 32 channels][lanes]: queries
  float* scales;    // [rows]: of query integers
  int32_t* first;   // [rows]: tokens of the run below are not seen
  float* worths;    // [rows][kMeansAtOnce]: sum of weights times the step of means of values
};
// The row of the warp that a thread has as its r-th.
__device__ __forceinline__ uint32_t row_of(int r, Lane at) { return 8 * static_cast<uint32_t>(r) + at.g; }

template <int kBlocks>
__device__ __forceinline__ uint4* query_operand(const RowsInShared& shared, int tile, int block) {
  return shared.operands + static_cast<uint32_t>(tile * kBlocks + block) * kWarpLanes +
         threadIdx.x % kWarpLanes;
}

// rotate: keys were rotated when they were unpacked.
template <int kBlocks>
__device__ __forceinline__ void quantise_rows(const WarpContext& w, bool rotate, const RowsInShared& shared) {
  constexpr float kTop = 127.0F;
#pragma unroll 1
  for (int tile = 0; tile < kTiles; ++tile) {
    uint32_t a[kBlocks][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float x[8 * kBlocks];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        float eight[8];
        load_query<kBlocks>(w, 2 * tile + half, b, eight);
#pragma unroll
        for (int k = 0; k < 8; ++k) x[8 * b + k] = eight[k];
      }
      if (rotate) rotate_across<4>(x);
      const float top = quad_max(fmaxf(largest_magnitude(x), 1e-30F));
      const float inverse = kTop * reciprocal_approx(top);
      if (w.at.i == 0) shared.scales[row_of(2 * tile + half, w.at)] = top * (1.0F / kTop);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        float eight[8];
#pragma unroll
        for (int k = 0; k < 8; ++k) eight[k] = __uint_as_float(rounded_bits(x[8 * b + k], inverse));
        pack_low_bytes(eight, a[b][half], a[b][half + 2]);
      }
    }
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
      *query_operand<kBlocks>(shared, tile, b) = make_uint4(a[b][0], a[b][1], a[b][2], a[b][3]);
  }
}

// ---- scores ----

// Query integers times codes of the section's mean of keys. Every column of the operand is the mean, so every
// thread gets its rows' products.
template <int kBlocks>
__device__ __forceinline__ void multiply_mean(const uint8_t* section, Lane at, const RowsInShared& shared,
                                              float (&products)[kRowsOfThread]) {
  int sums[kTiles][4] = {};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const auto eight = load_as<uint2>(section + Unpacked<kBlocks>::kKeyMeans + 32 * b + 8 * at.i);
    const uint32_t mean[2] = {eight.x, eight.y};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 four = *query_operand<kBlocks>(shared, tile, b);
      const uint32_t a[4] = {four.x, four.y, four.z, four.w};
      mma_bytes(SignedBytes{}, SignedBytes{}, sums[tile], a, mean);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) products[r] = static_cast<float>(sums[r / 2][r % 2 * 2]);
}

// products: query integers times levels times tokens' scales.
template <int kBlocks>
__device__ __forceinline__ void multiply_keys(const uint8_t* section, Lane at, const RowsInShared& shared,
                                              float (&products)[kRowsOfThread][kTokensOfThread]) {
  const int from[4] = {kSumBits, kSumBits, kSumBits, kSumBits};
  int sums[kTiles][2][4][4];
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    uint32_t a[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 four = *query_operand<kBlocks>(shared, tile, b);
      a[tile][0] = four.x;
      a[tile][1] = four.y;
      a[tile][2] = four.z;
      a[tile][3] = four.w;
    }
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      const Operands unit =
          load_unit(section + Unpacked<kBlocks>::kKeys + (group * kBlocks + b) * kUnitBytes);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          if (b == 0) {
            mma_bytes(SignedBytes{}, SignedBytes{}, sums[tile][group][t], a[tile], unit.b[t], from);
          } else {
            mma_bytes(SignedBytes{}, SignedBytes{}, sums[tile][group][t], a[tile], unit.b[t]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kTokensOfThread; k += 4) {
    const auto four =
        load_as<float4>(section + Unpacked<kBlocks>::kKeyScales + 4 * (32 * (k / 8) + 8 * at.i + k % 8));
    const float scale[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float excess = -kSumFloat * scale[j];
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
        const int sum = sums[r / 2][k / 8][j][r % 2 * 2 + k % 8 / 4];
        products[r][k + j] = fmaf(__int_as_float(sum), scale[j], excess);
      }
    }
  }
}

// ---- weights ----

// What only one thread of a row needs to know: that of the row's four whose i is the number of the row
// (row_of).
struct OwnRow {
  float l;       // sum of weights
  float excess;  // of outputs, in units of kSumFloat
};
static_assert(kRowsOfThread == 4);
__device__ __forceinline__ float own(const float (&of_rows)[kRowsOfThread], Lane at) {
  const float low = at.i == 0 ? of_rows[0] : of_rows[1];
  const float high = at.i == 2 ? of_rows[2] : of_rows[3];
  return at.i < 2 ? low : high;
}
__device__ __forceinline__ float of_owner(float value, int r) { return __shfl_sync(kAllLanes, value, r, 4); }

// By a tree: a chain would wait for every step.
__device__ __forceinline__ float largest_of(const float (&x)[kTokensOfThread]) {
  float y[kTokensOfThread / 2];
#pragma unroll
  for (int k = 0; k < kTokensOfThread / 2; ++k) y[k] = fmaxf(x[k], x[k + kTokensOfThread / 2]);
#pragma unroll
  for (int width = kTokensOfThread / 4; width > 0; width /= 2) {
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = fmaxf(y[k], y[k + width]);
  }
  return y[0];
}

// Brings the states of rows to new maxima.
template <int kBlocks>
__device__ __forceinline__ void raise_rows(const float (&tops)[kRowsOfThread], Lane at,
                                           const RowsInShared& shared, OwnRow& own_row,
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  float keep[kRowsOfThread];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const float m = fmaxf(rows[r].m, tops[r]);
    keep[r] = exp2_approx(rows[r].m - m);
    rows[r].m = m;
    float* worths = shared.worths + row_of(r, at) * kMeansAtOnce + 2 * at.i;
    const auto two = load_as<float2>(worths);
    store_as<float2>(worths, make_float2(two.x * keep[r], two.y * keep[r]));
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) rows[r].o[b][k] *= keep[r];
    }
  }
  own_row.l *= own(keep, at);
  own_row.excess *= own(keep, at);
}

// Products become weights of 0 to kTopWeight, in the lowest bytes of floats, relative to the row's largest
// score of the section. What they are worth: unit_worth, that of 1 times a level.
template <int kBlocks>
__device__ __forceinline__ void weigh_rows(const uint8_t* section, Lane at, uint32_t column,
                                           const RowsInShared& shared,
                                           const float (&mean_products)[kRowsOfThread],
                                           float (&products)[kRowsOfThread][kTokensOfThread],
                                           float (&unit_worth)[kRowsOfThread], OwnRow& own_row,
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  const auto steps = load_as<float4>(section + Unpacked<kBlocks>::kSteps);
  float scale[kRowsOfThread];
  float less[kRowsOfThread];
  float share[kRowsOfThread];
  float weight[kRowsOfThread];
  bool raised = false;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    scale[r] = shared.scales[row_of(r, at)];
    const float offset = mean_products[r] * (scale[r] * steps.x);
    const float top = fmaxf(quad_max(largest_of(products[r])) * scale[r] + offset, kEmptyScore);
    less[r] = offset - top;
    share[r] = top;
    weight[r] = 0.0F;
    raised = raised || top > rows[r].m;
  }
  // One question for all rows: what follows it cannot overlap with what is before.
  if (__any_sync(kAllLanes, raised ? 1 : 0) != 0) raise_rows(share, at, shared, own_row, rows);
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) share[r] = exp2_approx(share[r] - rows[r].m);
#pragma unroll
  for (int k = 0; k < kTokensOfThread; k += 4) {
    const auto four =
        load_as<float4>(section + Unpacked<kBlocks>::kValueShares + 4 * (32 * (k / 8) + 8 * at.i + k % 8));
    const float shares[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
        const float x = exp2_approx(fmaf(products[r][k + j], scale[r], less[r]));
        weight[r] += x;
        products[r][k + j] = fmaf(x, shares[j], kSumFloat);  // the lowest byte is the rounded weight
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    unit_worth[r] = share[r] * steps.z;
    weight[r] = quad_sum(weight[r]) * share[r];
    if (at.i == 0) shared.worths[row_of(r, at) * kMeansAtOnce + column] = weight[r] * steps.y;
  }
  own_row.l += own(weight, at);
  own_row.excess += own(unit_worth, at);
  __syncwarp();
}

// ---- values ----

template <int kBlocks>
__device__ __forceinline__ void add_values(const uint8_t* section,
                                           const float (&weights)[kRowsOfThread][kTokensOfThread],
                                           const float (&unit_worth)[kRowsOfThread],
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  uint32_t a[kTiles][2][4];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      uint32_t* operand = a[r / 2][group] + r % 2;
      pack_low_bytes(weights[r] + 8 * group, operand[0], operand[2]);
    }
  }
  const int from[4] = {kSumBits, kSumBits, kSumBits, kSumBits};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    int sums[kTiles][4][4];
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      const Operands unit =
          load_unit(section + Unpacked<kBlocks>::kValues + (group * kBlocks + b) * kUnitBytes);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          if (group == 0) {
            mma_bytes(UnsignedBytes{}, SignedBytes{}, sums[tile][t], a[tile][group], unit.b[t], from);
          } else {
            mma_bytes(UnsignedBytes{}, SignedBytes{}, sums[tile][t], a[tile][group], unit.b[t]);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const int sum = sums[r / 2][k % 4][r % 2 * 2 + k / 4];
        float& o = rows[r].o[b][k];
        o = fmaf(__int_as_float(sum), unit_worth[r], o);
      }
    }
  }
}

// Outputs lose their excess and get the means of values.
template <int kBlocks>
__device__ __forceinline__ void settle(const uint8_t* means, Lane at, const RowsInShared& shared,
                                       OwnRow& own_row, RowState<kBlocks> (&rows)[kRowsOfThread]) {
  uint32_t a[kTiles][4];
  float excess[kRowsOfThread];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    excess[r] = -kSumFloat * of_owner(own_row.excess, r);
    float* worths = shared.worths + row_of(r, at) * kMeansAtOnce + 2 * at.i;
    const auto two = load_as<float2>(worths);
    store_as<float2>(worths, make_float2(0.0F, 0.0F));
    const SplitPair pair = split_pair(two.x, two.y);
    a[r / 2][r % 2] = pair.high;
    a[r / 2][r % 2 + 2] = pair.low;
  }
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const auto four = load_as<uint4>(means + 16 * (static_cast<uint32_t>(b) * kWarpLanes + 4 * at.g + at.i));
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t two = component(four, t);
      const uint32_t operand[2] = {two, two};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        float d[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int r = 2 * tile + k / 2;
          d[k] = excess[r] + rows[r].o[b][t + 4 * (k % 2)];
        }
        mma_bf16(d, a[tile], operand);
#pragma unroll
        for (int k = 0; k < 4; ++k) rows[2 * tile + k / 2].o[b][t + 4 * (k % 2)] = d[k];
      }
    }
  }
  own_row.excess = 0.0F;
  __syncwarp();
}

// ---- a section ----

// section_first: its first token, of the run. sinks: tokens below are not seen. column: of the section among
// kMeansAtOnce.
template <int kBlocks>
__device__ __forceinline__ void attend_unpacked(Lane at, const uint8_t* section, int section_first, int sinks,
                                                uint32_t column, const RowsInShared& shared, OwnRow& own_row,
                                                RowState<kBlocks> (&rows)[kRowsOfThread]) {
  float mean_products[kRowsOfThread];
  multiply_mean<kBlocks>(section, at, shared, mean_products);
  hold_back_loads();
  float weights[kRowsOfThread][kTokensOfThread];
  multiply_keys<kBlocks>(section, at, shared, weights);
  int first[kRowsOfThread];
  bool masked = false;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    first[r] = max(shared.first[row_of(r, at)] - section_first, sinks);
    masked = masked || first[r] > 0;
  }
  if (__any_sync(kAllLanes, masked ? 1 : 0) != 0) {
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
#pragma unroll
      for (int k = 0; k < kTokensOfThread; ++k) {
        if (32 * (k / 8) + static_cast<int>(8 * at.i) + k % 8 < first[r]) weights[r][k] = -INFINITY;
      }
    }
  }
  float unit_worth[kRowsOfThread];
  weigh_rows(section, at, column, shared, mean_products, weights, unit_worth, own_row, rows);
  add_values(section, weights, unit_worth, rows);
}

}  // namespace quire::cuda
