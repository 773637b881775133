// Attention of one warp: up to kTiles * 8 rows over sections, everything in registers.
//
// Rows of a tile stand twice in the 16 rows of a matrix instruction: the upper halves of their 16-bit
// integers and the lower ones, so that two 8-bit products give one of 16 bits and the two accumulators of a
// thread belong together. Tokens go by in groups of 32: scores, running maximum, weights, values. The order
// of all sums is fixed.
#pragma once

#include "quant/cuda/key_scores.cuh"
#include "quant/cuda/value_sums.cuh"

namespace quire::cuda {

// first[tile]: tokens of the section below this are not seen by row g of the tile, as are `sinks` tokens,
// which stand unfolded. query_words: [tiles][words_of_warp] in shared memory.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void attend_section(const WarpContext& w, const SectionRef& ref,
                                               const int (&first)[kTiles], uint32_t sinks,
                                               uint32_t* query_words, RowState<kBlocks> (&rows)[kTiles]) {
  QueryOperands queries[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    queries[tile].words =
        query_words + tile * QueryOperands::words_of_warp(kBlocks) + 4 * (threadIdx.x % kWarpLanes);
  }
  prepare_queries<kBlocks>(w, ref, queries);
  for (uint32_t group = 0; group < w.args.format.shape.tokens; group += 32) {
    float scores[kTiles][8];
    score_group<kBlocks>(w, ref, group, queries, scores);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int seen_from = max(first[tile], static_cast<int>(sinks)) - static_cast<int>(group);
      weigh(w, seen_from, scores[tile], rows[tile]);
    }
    accumulate(w, ref, group, scores, rows);
  }
  if (w.args.format.value.family == CodecFamily::kRotated) {
    add_means(w, value_meta(w, ref) + w.args.format.shape.tokens,
              step_approx(static_cast<int16_t>(ref.value_param >> 16)), rows);
  }
}

}  // namespace quire::cuda
