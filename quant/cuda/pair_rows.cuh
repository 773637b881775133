// What a warp of a group does with its sixteen rows and a pair of sections: scores, weights, values. A thread
// has rows g and g + 8 (half 0 and 1). Of a pair's sums it has, for each, tokens 32 t + 8 i .. + 7 in
// elements 16 t + 4 j + 2 half + e of token 2 j + e (section_pair.cuh), and of outputs channels 8 n + 2 i, +
// 1 in elements 4 n + 2 half, + 1.
//
// Queries and weights have 8 bits: a query relative to its row's largest element, a weight to the row's
// largest of the pair; rotated keys have no outstanding channels, so what a query loses is a tenth of what a
// key of 4 bits has lost. Means of values are multiplied for kPairsAtOnce pairs at a time, with the rows'
// sums of weights in two bf16.
#pragma once

#include "quant/cuda/rotate_across.cuh"
#include "quant/cuda/section_pair.cuh"
#include "quant/cuda/warp_rows.cuh"
#include "quant/cuda/warpgroup.cuh"

namespace quire::cuda {

inline constexpr int kPairScores = kPairTokens / 2;      // of a thread
inline constexpr int kSectionSums = kPrefillTokens / 2;  // the same of a section
// How far a row's largest score may be above what its outputs are relative to, in powers of two: each raise
// costs a multiplication of all outputs.
inline constexpr float kMostAbove = 8.0F;

// What a thread knows of its two rows.
struct PairRows {
  float scale[2];     // of query integers
  int seen_from[2];   // tokens of the run below are not seen
  float m[2];         // what outputs are relative to; the same in all four threads of a row, as is l
  float l[2];         // sum of weights
  float worth[2][2];  // of pair i of those whose means wait, by row and section: weights times a mean's step
};

// Queries as the products take them: a row's largest element becomes 127. Of a warp's sixteen rows, to an
// operand of [kGroupRows][dim] from row `first` on; scales: [16]. q: of the head, rows from `end` on are
// taken for the last. rotate: keys were rotated when they were unpacked.
template <int kBlocks>
__device__ __forceinline__ void quantise_queries(const float* q, bool rotate, uint32_t first_row,
                                                 uint32_t end, uint32_t first, uint8_t* operand,
                                                 float* scales) {
  constexpr uint32_t kDim = kBlocks * 32;
  constexpr uint32_t kRowLanes = kDim / 4;
  constexpr float kTop = 127.0F;
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const uint32_t four = lane % kRowLanes;
#pragma unroll 4
  for (uint32_t r = lane / kRowLanes; r < 16; r += kWarpLanes / kRowLanes) {
    const uint32_t row = min(first_row + r, end - 1);
    const auto loaded = load_as<float4>(q + size_t{row} * kDim + 4 * four);
    float x[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
    if (rotate) rotate_across<kRowLanes>(x);
    float largest = largest_magnitude(x);
#pragma unroll
    for (uint32_t step = 1; step < kRowLanes; step *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, static_cast<int>(step)));
    const float top = fmaxf(largest, 1e-30F);
    const float inverse = kTop * reciprocal_approx(top);
    if (four == 0) scales[r] = top * (1.0F / kTop);
    const uint32_t low = __byte_perm(rounded_bits(x[0], inverse), rounded_bits(x[1], inverse), 0x0040U);
    const uint32_t high = __byte_perm(rounded_bits(x[2], inverse), rounded_bits(x[3], inverse), 0x0040U);
    const uint32_t mine = __byte_perm(low, high, 0x5410U);
    // Of eight channels one thread has the first four and one the others; pack_order<true> takes of both.
    const uint32_t other = __shfl_xor_sync(kAllLanes, mine, 1);
    const uint32_t word =
        four % 2 == 0 ? __byte_perm(mine, other, 0x5140U) : __byte_perm(other, mine, 0x7362U);
    store_as<uint32_t>(operand + core_place(first + r, 4 * four, kGroupRows * kCoreWidth), word);
  }
}

// ---- scores ----

// Of the section's tokens that a thread has: they are asked for before a product is waited for.
template <int kBlocks>
__device__ __forceinline__ void load_key_scales(const uint8_t* pair, Lane at, int section,
                                                float (&scales)[16]) {
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const uint8_t* from =
        pair + Pair<kBlocks>::kKeyScales + sizeof(float) * (kPrefillTokens * section + 32 * t + 8 * at.i);
    const auto low = load_as<float4>(from);
    const auto high = load_as<float4>(from + sizeof(float4));
    const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) scales[8 * t + k] = eight[k];
  }
}
// Sums of a section's products become scores, but for queries' scales and what means make of them.
__device__ __forceinline__ void scale_scores(const int (&sums)[kSectionSums], const float (&scales)[16],
                                             int section, float (&scores)[kPairScores]) {
#pragma unroll
  for (int k = 0; k < kSectionSums; ++k)
    scores[kSectionSums * section + k] = static_cast<float>(sums[k]) * scales[k / 4 * 2 + k % 2];
}

// What a pair's tokens and the run's have to do with each other.
struct PairPlace {
  int first;       // token of the run
  int seen_from;   // of the pair: tokens below are sinks
  int seen_below;  // of the pair: its tokens are so many
  uint32_t waits;  // the pair's place among those whose means of values wait
};

__device__ __forceinline__ void mask_scores(const PairRows& rows, const PairPlace& place, Lane at,
                                            float (&scores)[kPairScores]) {
  const int first[2] = {max(rows.seen_from[0] - place.first, place.seen_from),
                        max(rows.seen_from[1] - place.first, place.seen_from)};
  const bool masked = first[0] > 0 || first[1] > 0 || place.seen_below < static_cast<int>(kPairTokens);
  if (__any_sync(kAllLanes, masked ? 1 : 0) == 0) return;
#pragma unroll
  for (int k = 0; k < kPairScores; ++k) {
    const int token = 32 * (k / 16) + static_cast<int>(8 * at.i) + k / 4 % 4 * 2 + k % 2;
    if (token < first[k / 2 % 2] || token >= place.seen_below) scores[k] = -INFINITY;
  }
}

// The largest score of a row (half) in a section of the pair, of this thread's.
__device__ __forceinline__ float largest_of(const float (&scores)[kPairScores], int half, int section) {
  float y[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int at = kSectionSums * section + 4 * k + 2 * half;
    y[k] = fmaxf(scores[at], scores[at + 1]);
  }
#pragma unroll
  for (int width = 4; width > 0; width /= 2) {
#pragma unroll
    for (int k = 0; k < width; ++k) y[k] = fmaxf(y[k], y[k + width]);
  }
  return y[0];
}

// ---- weights ----

// Brings the state to new maxima.
template <int kParts>
__device__ __forceinline__ void raise_rows(const float (&tops)[2], PairRows& rows, float (&o)[kParts][32]) {
  float keep[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float m = fmaxf(rows.m[half], tops[half]);
    keep[half] = exp2_approx(rows.m[half] - m);
    rows.m[half] = m;
    rows.l[half] *= keep[half];
    rows.worth[half][0] *= keep[half];
    rows.worth[half][1] *= keep[half];
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int k = 0; k < 32; ++k) o[part][k] *= keep[k / 2 % 2];
  }
}

// Scores become weights of 0 to kTopWeight relative to the row's largest of the pair, four bytes a register.
// means: products of queries and the sections' key means. unit: what a weight of 1 times a level is worth.
template <int kBlocks>
__device__ __forceinline__ void weigh_pair(const uint8_t* pair, Lane at, const int (&means)[4],
                                           uint32_t waits, PairRows& rows, const float (&scores)[kPairScores],
                                           uint32_t (&weights)[4][4], float (&unit)[2],
                                           float (&o)[kBlocks / 2][32]) {
  const auto steps = load_as<float4>(pair + Pair<kBlocks>::kSteps);
  const float of_unit = load_as<float>(pair + Pair<kBlocks>::kSteps + offsetof(PairSteps, unit));
  const float key_steps[2] = {steps.x, steps.y};
  const float value_steps[2] = {steps.z, steps.w};
  const float scale[2] = {rows.scale[0], rows.scale[1]};
  float less[2][2];
  float tops[2];
  bool raised = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    tops[half] = kEmptyScore;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const auto mean = static_cast<float>(__shfl_sync(kAllLanes, means[2 * half + s], 0, 4));
      less[half][s] = mean * (scale[half] * key_steps[s]);
      tops[half] = fmaxf(tops[half], fmaf(largest_of(scores, half, s), scale[half], less[half][s]));
    }
    tops[half] = quad_max(tops[half]);
    less[half][0] -= tops[half];
    less[half][1] -= tops[half];
    raised = raised || tops[half] > rows.m[half] + kMostAbove;
  }
  // One question for all rows: what follows it cannot overlap with what is before.
  if (__any_sync(kAllLanes, raised ? 1 : 0) != 0) raise_rows(tops, rows, o);

  float sums[2][2] = {};
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const uint8_t* shares = pair + Pair<kBlocks>::kValueShares + sizeof(float) * (32 * t + 8 * at.i);
    const auto low = load_as<float4>(shares);
    const auto high = load_as<float4>(shares + sizeof(float4));
    const float share[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float w[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float score = scores[16 * t + k / 2 * 4 + 2 * half + k % 2];
        const float x = exp2_approx(fmaf(score, scale[half], less[half][t / 2]));
        sums[half][t / 2] += x;
        w[k] = fmaf(x, share[k], kSumFloat);  // the lowest byte is the rounded weight
      }
      pack_low_bytes(w, weights[t][half], weights[t][half + 2]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float share = exp2_approx(tops[half] - rows.m[half]);
    unit[half] = share * of_unit;
    const float of_sections[2] = {quad_sum(sums[half][0]) * share, quad_sum(sums[half][1]) * share};
    rows.l[half] += of_sections[0] + of_sections[1];
    if (at.i == waits) {
      rows.worth[half][0] = of_sections[0] * value_steps[0];
      rows.worth[half][1] = of_sections[1] * value_steps[1];
    }
  }
}

// ---- products ----

// Of queries and a section's keys.
template <int kBlocks>
__device__ __forceinline__ void begin_keys(CoreMatrix queries, CoreMatrix pair, int section,
                                           int (&sums)[kSectionSums]) {
  constexpr uint32_t kQueryStep = kGroupRows * kCoreWidth;
  const CoreMatrix keys = behind(pair, Pair<kBlocks>::kKeys + section * kPrefillTokens * kCoreWidth);
#pragma unroll
  for (uint32_t b = 0; b < kBlocks; ++b) {
    multiply_bytes(sums, behind(queries, 2 * b * kQueryStep), behind(keys, 2 * b * Pair<kBlocks>::kKeyStep),
                   b > 0);
  }
}
// And the means of both sections' keys.
template <int kBlocks>
__device__ __forceinline__ void begin_means(CoreMatrix queries, const uint8_t* pair, int (&sums)[4]) {
  constexpr uint32_t kQueryStep = kGroupRows * kCoreWidth;
  const CoreMatrix means = core_matrix(pair + Pair<kBlocks>::kKeyMeans, kCoreBytes, kCoreBytes);
#pragma unroll
  for (uint32_t b = 0; b < kBlocks; ++b)
    multiply_bytes(sums, behind(queries, 2 * b * kQueryStep), behind(means, 2 * b * kCoreBytes), b > 0);
}
// Of weights and 64 channels of values.
template <int kBlocks>
__device__ __forceinline__ void begin_values(const uint32_t (&weights)[4][4], const uint8_t* pair,
                                             uint32_t part, int (&sums)[32]) {
  constexpr uint32_t kStep = Pair<kBlocks>::kValueStep;
  const CoreMatrix values =
      core_matrix(pair + Pair<kBlocks>::kValues + part * 64 * kCoreWidth, kStep, kCoreBytes);
#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) multiply_weights(sums, weights[t], behind(values, 2 * t * kStep), t > 0);
}
__device__ __forceinline__ void add_values(const int (&sums)[32], const float (&unit)[2], float (&o)[32]) {
#pragma unroll
  for (int k = 0; k < 32; ++k) o[k] = fmaf(static_cast<float>(sums[k]), unit[k / 2 % 2], o[k]);
}

// Outputs get the means of values that wait.
template <int kParts>
__device__ __forceinline__ void add_means(const uint8_t* means, PairRows& rows, float (&o)[kParts][32]) {
  uint32_t a[4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const SplitPair split = split_pair(rows.worth[half][0], rows.worth[half][1]);
    a[half] = split.high;
    a[half + 2] = split.low;
  }
  // Both halves of the reduction are the same sections: the higher and the lower parts of their worths.
  const CoreMatrix all = core_matrix(means, 0, kCoreBytes);
  begin_products();
#pragma unroll
  for (int part = 0; part < kParts; ++part)
    multiply_means(o[part], a, behind(all, static_cast<uint32_t>(part) * 64 * kCoreWidth));
  commit_products();
#pragma unroll
  for (int part = 0; part < kParts; ++part) await_products<0>(o[part]);
}

// ---- a pair ----

template <int kBlocks>
__device__ __forceinline__ CoreMatrix keys_of(const uint8_t* pair) {
  return core_matrix(pair, Pair<kBlocks>::kKeyStep, kCoreBytes);
}

// first_sums: of the pair's first section, which the call before has begun and awaited; afterwards of the
// next pair's. Products of one thing run while the sums of another are dealt with: keys of the second section
// beside the scores of the first, the next pair's keys and values beside outputs. await_next() gives the next
// pair once it is there.
template <int kBlocks, typename AwaitNext>
__device__ __forceinline__ void attend_pair(Lane at, CoreMatrix queries, const uint8_t* pair,
                                            const PairPlace& place, const AwaitNext& await_next,
                                            int (&first_sums)[kSectionSums], PairRows& rows,
                                            float (&o)[kBlocks / 2][32]) {
  constexpr uint32_t kParts = kBlocks / 2;
  uint32_t weights[4][4];
  float unit[2];
  {
    int sums[kSectionSums];
    int means[4];
    float first_scales[16];
    float second_scales[16];
    load_key_scales<kBlocks>(pair, at, 0, first_scales);
    load_key_scales<kBlocks>(pair, at, 1, second_scales);
    begin_products();
    begin_keys<kBlocks>(queries, keys_of<kBlocks>(pair), 1, sums);
    begin_means<kBlocks>(queries, pair, means);
    commit_products();
    float scores[kPairScores];
    scale_scores(first_sums, first_scales, 0, scores);
    await_products<0>(sums, means);
    scale_scores(sums, second_scales, 1, scores);
    mask_scores(rows, place, at, scores);
    weigh_pair<kBlocks>(pair, at, means, place.waits, rows, scores, weights, unit, o);
  }
  int sums[32];
  begin_products();
  begin_values<kBlocks>(weights, pair, 0, sums);
  commit_products();
  const uint8_t* next = await_next();
  begin_products();
  begin_keys<kBlocks>(queries, keys_of<kBlocks>(next), 0, first_sums);
  commit_products();
  await_products<1>(sums);
  add_values(sums, unit, o[0]);
#pragma unroll
  for (uint32_t part = 1; part < kParts; ++part) {
    begin_products();
    begin_values<kBlocks>(weights, pair, part, sums);
    commit_products();
    await_products<0>(sums);
    add_values(sums, unit, o[part]);
  }
  await_products<0>(first_sums);
}

}  // namespace quire::cuda
