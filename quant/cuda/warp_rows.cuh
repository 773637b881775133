// The rows that a warp attends for: queries, running state, softmax, unfolded sinks.
#pragma once

#include "quant/cuda/launch.h"
#include "quant/cuda/operands.cuh"

namespace quire::cuda {

// What a warp works with. q: [rows][dim], of which rows after the last are taken for the last: what they give
// is not kept.
struct WarpContext {
  const AttendArgs& args;
  const float* q;
  uint32_t last_row;
  Lane at;
};

__device__ __forceinline__ const uint8_t* key_meta(const WarpContext& w, const SectionRef& ref) {
  return ref.section + w.args.format.layout.key_meta;
}
__device__ __forceinline__ const uint8_t* value_meta(const WarpContext& w, const SectionRef& ref) {
  return ref.section + w.args.format.layout.value_meta;
}

inline constexpr float kEmptyScore = -1e30F;  // below every score that means anything

// A thread's share of the state of a tile's row g: channels 32 b + 8 i + k in o[b][k].
template <int kBlocks>
struct RowState {
  float o[kBlocks][8];
  float m;       // in all four threads of the row
  float l;       // of this thread's tokens, as are the next two
  float mid;     // sum of weight * midpoint of values
  float weight;  // of the section: sum of weights
};

// Whether rows have block b of channels, which they do. Asked before each block where there are not registers
// for several: compilers mix what is to be done for one with what is to be done for the next, but not across
// a branch.
__device__ __forceinline__ bool has_block(const WarpContext& w, int b) {
  return 32 * static_cast<uint32_t>(b) < w.args.format.shape.dim;
}

// Elements 32 b + 8 i .. + 7 of row g of a tile.
template <int kBlocks>
__device__ __forceinline__ void load_query(const WarpContext& w, int tile, int b, float (&x)[8]) {
  const uint32_t r = min(8U * static_cast<uint32_t>(tile) + w.at.g, w.last_row);
  load_eight(w.q + size_t{r} * kBlocks * 32 + 32 * b + 8 * w.at.i, x);
}

template <int kBlocks, int kTiles>
__device__ __forceinline__ void clear_rows(RowState<kBlocks> (&rows)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    RowState<kBlocks>& row = rows[tile];
    row.m = kEmptyScore;
    row.l = row.mid = row.weight = 0.0F;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] = 0.0F;
    }
  }
}

// Scores of eight tokens become weights 2^(score - m). Tokens of the group below `first` get 0.
template <int kBlocks>
__device__ __forceinline__ void weigh(const WarpContext& w, int first, float (&scores)[8],
                                      RowState<kBlocks>& row) {
  const int of_thread = first - static_cast<int>(8 * w.at.i);
  float largest = kEmptyScore;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if (k >= of_thread) largest = fmaxf(largest, scores[k]);
  }
  const float m = fmaxf(row.m, quad_max(largest));
  if (__any_sync(kAllLanes, m > row.m ? 1 : 0) != 0) {
    const float keep = exp2_approx(row.m - m);
    row.m = m;
    row.l *= keep;
    row.mid *= keep;
    row.weight *= keep;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] *= keep;
    }
  }
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    scores[k] = k >= of_thread ? exp2_approx(scores[k] - m) : 0.0F;
    row.l += scores[k];
    row.weight += scores[k];
  }
}

// Rows of sinks are 2-byte aligned only.
__device__ __forceinline__ void eight_bf16(const WarpContext& w, const uint8_t* row, int b, float (&x)[8]) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    x[k] = bf16_bits_to_float(load_as<uint16_t>(row + size_t{2} * (32 * b + 8 * w.at.i + k)));
  }
}

// One unfolded token: keys and values in bf16.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void attend_sink(const WarpContext& w, const SectionRef& ref, uint32_t token,
                                            const int (&first)[kTiles], RowState<kBlocks> (&rows)[kTiles]) {
  const SectionLayout& layout = w.args.format.layout;
  const size_t offset = size_t{token} * kBlocks * 64;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    RowState<kBlocks>& row = rows[tile];
    float score = 0.0F;
#pragma unroll 1
    for (int b = 0; b < kBlocks; ++b) {
      float x[8];
      float key[8];
      load_query<kBlocks>(w, tile, b, x);
      eight_bf16(w, ref.section + layout.sink_keys + offset, b, key);
#pragma unroll
      for (int k = 0; k < 8; ++k) score += x[k] * key[k];
    }
    score = quad_sum(score);
    const bool seen = static_cast<int>(token) >= first[tile];
    const float m = seen ? fmaxf(row.m, score) : row.m;
    const float keep = exp2_approx(row.m - m);
    const float weight = seen ? exp2_approx(score - m) : 0.0F;
    row.m = m;
    row.l = row.l * keep + (w.at.i == 0 ? weight : 0.0F);  // the four threads' shares are added in the end
    row.mid *= keep;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if constexpr (kBlocks > 2) hold_back_loads();
      float value[8];
      eight_bf16(w, ref.section + layout.sink_values + offset, b, value);
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] = row.o[b][k] * keep + weight * value[k];
    }
  }
}

// step(n) to two units in the last place; 0 below 2^-126 as FORMATS.md has it.
__device__ __forceinline__ float step_approx(int n) {
  return n >= -126 * kStepsPerOctave ? exp2_approx(static_cast<float>(n) * (1.0F / kStepsPerOctave)) : 0.0F;
}
// Of the thread's eight tokens of a group.
__device__ __forceinline__ void logarithmic_scales(const WarpContext& w, const uint8_t* codes, uint32_t group,
                                                   uint32_t param, float (&scales)[8]) {
  const int largest = static_cast<int16_t>(param & 0xFFFFU);
  const auto words = load_as<uint2>(codes + group + 8 * w.at.i);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int code = static_cast<int>((k < 4 ? words.x : words.y) >> (8 * (k % 4)) & 0xFFU);
    scales[k] = code == 0 ? 0.0F : step_approx(largest + code - 255);
  }
}

// Sums up what the threads of a row hold apart. After the last section.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void close_rows(RowState<kBlocks> (&rows)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    RowState<kBlocks>& row = rows[tile];
    row.l = quad_sum(row.l);
    const float mid = quad_sum(row.mid);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] += mid;
    }
  }
}

// Of a closed state, to [kTiles * 8][dim], [kTiles * 8], [kTiles * 8].
template <int kBlocks, int kTiles>
__device__ __forceinline__ void store_rows(const WarpContext& w, const RowState<kBlocks> (&rows)[kTiles],
                                           float* o, float* m, float* l) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const RowState<kBlocks>& row = rows[tile];
    const uint32_t r = 8 * tile + w.at.g;
    float* out = o + size_t{r} * kBlocks * 32 + 8 * w.at.i;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      store_as<float4>(out + 32 * b, make_float4(row.o[b][0], row.o[b][1], row.o[b][2], row.o[b][3]));
      store_as<float4>(out + 32 * b + 4, make_float4(row.o[b][4], row.o[b][5], row.o[b][6], row.o[b][7]));
    }
    if (w.at.i == 0) {
      m[r] = row.l == 0.0F ? -INFINITY : row.m;
      l[r] = row.l;
    }
  }
}

// Merges another warp's stored state into this closed one.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void merge_rows(const WarpContext& w, const float* o, const float* m,
                                           const float* l, RowState<kBlocks> (&rows)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    RowState<kBlocks>& row = rows[tile];
    const uint32_t r = 8 * tile + w.at.g;
    const float other = fmaxf(m[r], kEmptyScore);
    const float top = fmaxf(row.m, other);
    const float keep = exp2_approx(row.m - top);
    const float add = l[r] == 0.0F ? 0.0F : exp2_approx(other - top);
    row.m = top;
    row.l = row.l * keep + l[r] * add;
    const float* in = o + size_t{r} * kBlocks * 32 + 8 * w.at.i;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if constexpr (kBlocks > 4) hold_back_loads();
      const auto low = load_as<float4>(in + 32 * b);
      const auto high = load_as<float4>(in + 32 * b + 4);
      const float others[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] = row.o[b][k] * keep + others[k] * add;
    }
  }
}
}  // namespace quire::cuda
