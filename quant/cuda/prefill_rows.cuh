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

// What only one thread of a row knows: that of the row's four whose i is the number of the row (row_of).
struct OwnRow {
  float m;       // largest score
  float l;       // sum of weights
  float excess;  // of outputs, in units of kSumFloat
};

// What of a warp's rows lies in shared memory, since registers are what everything has to fit in. That goes
// for addresses too: those of one struct have their base in common.
template <int kBlocks>
struct RowsInShared {
  uint4 operands[kTiles][kBlocks][kWarpLanes];  // queries
  float scales[kWarpRows];                      // of query integers
  int32_t first[kWarpRows];                     // tokens of the run below are not seen
  float worths[kMeansAtOnce][kWarpRows];        // sum of weights times the step of means of values
  OwnRow own_rows[kWarpLanes];                  // of each thread

  // Of this thread.
  __device__ __forceinline__ OwnRow& own_row() { return own_rows[threadIdx.x % kWarpLanes]; }
  __device__ __forceinline__ uint4& operand(int tile, int block) {
    return operands[tile][block][threadIdx.x % kWarpLanes];
  }
};
// The row of the warp that a thread has as its r-th.
__device__ __forceinline__ uint32_t row_of(int r, Lane at) { return 8 * static_cast<uint32_t>(r) + at.g; }

// rotate: keys were rotated when they were unpacked.
template <int kBlocks>
__device__ __forceinline__ void quantise_rows(const WarpContext& w, bool rotate,
                                              RowsInShared<kBlocks>& shared) {
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
      shared.operand(tile, b) = make_uint4(a[b][0], a[b][1], a[b][2], a[b][3]);
  }
}

// ---- scores ----

// Query integers times codes of the section's mean of keys. Every column of the operand is the mean, so every
// thread gets its rows' products.
template <int kBlocks>
__device__ __forceinline__ void multiply_mean(const uint8_t* section, Lane at, RowsInShared<kBlocks>& shared,
                                              float (&products)[kRowsOfThread]) {
  int sums[kTiles][4] = {};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const auto eight = load_as<uint2>(section + Unpacked<kBlocks>::kKeyMeans + 32 * b + 8 * at.i);
    const uint32_t mean[2] = {eight.x, eight.y};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 four = shared.operand(tile, b);
      const uint32_t a[4] = {four.x, four.y, four.z, four.w};
      mma_bytes(SignedBytes{}, SignedBytes{}, sums[tile], a, mean);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) products[r] = static_cast<float>(sums[r / 2][r % 2 * 2]);
}

// products: query integers times levels times tokens' scales.
template <int kBlocks>
__device__ __forceinline__ void multiply_keys(const uint8_t* section, Lane at, RowsInShared<kBlocks>& shared,
                                              float (&products)[kRowsOfThread][kTokensOfThread]) {
  const int from[4] = {kSumBits, kSumBits, kSumBits, kSumBits};
  int sums[kTiles][2][4][4];
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    uint32_t a[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 four = shared.operand(tile, b);
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

static_assert(kRowsOfThread == 4);
__device__ __forceinline__ uint32_t own_row_of(Lane at) { return row_of(static_cast<int>(at.i), at); }
__device__ __forceinline__ float own(const float (&of_rows)[kRowsOfThread], Lane at) {
  const float low = at.i == 0 ? of_rows[0] : of_rows[1];
  const float high = at.i == 2 ? of_rows[2] : of_rows[3];
  return at.i < 2 ? low : high;
}
__device__ __forceinline__ float of_owner(float value, int r) { return __shfl_sync(kAllLanes, value, r, 4); }
// The sum of what the four threads of the own row have of it. Each step halves the rows that a thread sums.
__device__ __forceinline__ float own_sum(const float (&of_rows)[kRowsOfThread], Lane at) {
  const bool odd = at.i % 2 != 0;
  const float low =
      (odd ? of_rows[1] : of_rows[0]) + __shfl_xor_sync(kAllLanes, odd ? of_rows[0] : of_rows[1], 1);
  const float high =
      (odd ? of_rows[3] : of_rows[2]) + __shfl_xor_sync(kAllLanes, odd ? of_rows[2] : of_rows[3], 1);
  const bool upper = at.i >= 2;
  return (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, 2);
}

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

// Brings the states of rows to new maxima. top: of the own row.
template <int kBlocks>
__device__ __forceinline__ void raise_rows(float top, Lane at, RowsInShared<kBlocks>& shared,
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  OwnRow& own_row = shared.own_row();
  const float m = fmaxf(own_row.m, top);
  const float own_keep = exp2_approx(own_row.m - m);
  own_row = {m, own_row.l * own_keep, own_row.excess * own_keep};
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const float keep = of_owner(own_keep, r);
    shared.worths[2 * at.i][row_of(r, at)] *= keep;
    shared.worths[2 * at.i + 1][row_of(r, at)] *= keep;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) rows[r].o[b][k] *= keep;
    }
  }
  __syncwarp();
}

// Products become weights of 0 to kTopWeight, in the lowest bytes of floats, relative to the row's largest
// score of the section. What they are worth: unit_worth, that of 1 times a level.
template <int kBlocks>
__device__ __forceinline__ void weigh_rows(const uint8_t* section, Lane at, uint32_t column,
                                           RowsInShared<kBlocks>& shared,
                                           const float (&mean_products)[kRowsOfThread],
                                           float (&products)[kRowsOfThread][kTokensOfThread],
                                           float (&unit_worth)[kRowsOfThread],
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  const auto steps = load_as<float4>(section + Unpacked<kBlocks>::kSteps);
  float scale[kRowsOfThread];
  float less[kRowsOfThread];
  float tops[kRowsOfThread];
  float weight[kRowsOfThread];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    scale[r] = shared.scales[row_of(r, at)];
    const float offset = mean_products[r] * (scale[r] * steps.x);
    tops[r] = fmaxf(quad_max(largest_of(products[r])) * scale[r] + offset, kEmptyScore);
    less[r] = offset - tops[r];
    weight[r] = 0.0F;
  }
  OwnRow& own_row = shared.own_row();
  const float top = own(tops, at);
  // One question for all rows: what follows it cannot overlap with what is before.
  if (__any_sync(kAllLanes, top > own_row.m ? 1 : 0) != 0) raise_rows(top, at, shared, rows);
  const float share = exp2_approx(top - own_row.m);
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
  const float own_weight = own_sum(weight, at) * share;
  shared.worths[column][own_row_of(at)] = own_weight * steps.y;
  own_row.l += own_weight;
  const float own_worth = share * steps.z;
  own_row.excess += own_worth;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) unit_worth[r] = of_owner(own_worth, r);
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
__device__ __forceinline__ void settle(const uint8_t* means, Lane at, RowsInShared<kBlocks>& shared,
                                       RowState<kBlocks> (&rows)[kRowsOfThread]) {
  OwnRow& own_row = shared.own_row();
  uint32_t a[kTiles][4];
  float excess[kRowsOfThread];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    excess[r] = -kSumFloat * of_owner(own_row.excess, r);
    float& even = shared.worths[2 * at.i][row_of(r, at)];
    float& odd = shared.worths[2 * at.i + 1][row_of(r, at)];
    const SplitPair pair = split_pair(even, odd);
    even = odd = 0.0F;
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
                                                uint32_t column, RowsInShared<kBlocks>& shared,
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
      const int of_thread = first[r] - static_cast<int>(8 * at.i);
#pragma unroll
      for (int k = 0; k < kTokensOfThread; ++k) {
        if (32 * (k / 8) + k % 8 < of_thread) weights[r][k] = -INFINITY;
      }
    }
  }
  float unit_worth[kRowsOfThread];
  weigh_rows(section, at, column, shared, mean_products, weights, unit_worth, rows);
  add_values(section, weights, unit_worth, rows);
}

}  // namespace quire::cuda
