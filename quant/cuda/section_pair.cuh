// Two sections as the matrix instructions of four warps take them (warpgroup.cuh): unpacked to bytes in cores
// of 8 rows by 16 bytes, with everything that a row needs to know of them. Made once (unpack_pairs.cu) for
// all rows of a call, in the call's scratch; from there they come to shared memory by one copy.
//
// Keys stand in rows so that a thread of a product gets, of every 32 tokens, eight that follow each other:
// 8 i .. 8 i + 7. The bytes of a row are channels in pack_order<true> (operands.cuh), as queries have them. A
// row of values is a channel, its bytes are tokens in the order in which a thread has weights.
//
// Scratch holds groups of kMeansAtOnce sections of one run and head: pairs, then the means of values of all.
// Of a section that the last pair lacks scales are 0 and the codes anything.
#pragma once

#include "quant/cuda/prefill_section.cuh"

namespace quire::cuda {

inline constexpr uint32_t kPairTokens = 2 * kPrefillTokens;
inline constexpr uint32_t kPairsAtOnce = kMeansAtOnce / 2;
inline constexpr uint32_t kCoreBytes = 128;
inline constexpr uint32_t kCoreRows = 8;
inline constexpr uint32_t kCoreWidth = 16;

// What is the same for all tokens, first of sections: steps of codes of key means and of value means.
struct alignas(16) PairSteps {
  float key[2];
  float value[2];
  float unit;  // what a weight of 1 times a level of 1 is worth
  float padding[3];
};

// Where the parts of a pair lie, in bytes.
template <int kBlocks>
struct Pair {
  static constexpr uint32_t kDim = kBlocks * 32;
  static constexpr uint32_t kKeyStep = kPairTokens / kCoreRows * kCoreBytes;  // along the reduction
  static constexpr uint32_t kValueStep = kDim / kCoreRows * kCoreBytes;
  static constexpr uint32_t kKeys = 0;
  static constexpr uint32_t kValues = kKeys + kPairTokens * kDim;
  static constexpr uint32_t kKeyMeans = kValues + kPairTokens * kDim;                 // rows 0 and 1 of cores
  static constexpr uint32_t kKeyScales = kKeyMeans + kDim / kCoreWidth * kCoreBytes;  // [tokens] floats
  static constexpr uint32_t kValueShares = kKeyScales + kPairTokens * sizeof(float);  // the same
  static constexpr uint32_t kSteps = kValueShares + kPairTokens * sizeof(float);
  static constexpr uint32_t kBytes = kSteps + sizeof(PairSteps);
  static constexpr uint32_t kMeanBytes = kDim * kMeansAtOnce * sizeof(uint16_t);  // a core a channel
  static constexpr uint32_t kGroupBytes = kPairsAtOnce * kBytes + kMeanBytes;
  static_assert(kBytes % 16 == 0 && kMeanBytes % 16 == 0);
};

// Of a core's row of 16 bytes, from the first of all cores.
__device__ __forceinline__ uint32_t core_place(uint32_t row, uint32_t along, uint32_t step) {
  return along / kCoreWidth * step + row * kCoreWidth + along % kCoreWidth;
}
// The row of a key among the pair's: token 8 i + 2 j + e of 32 stands in row 8 j + 2 i + e.
__device__ __forceinline__ uint32_t key_row(uint32_t token) {
  return token / 32 * 32 + token % 8 / 2 * 8 + token % 32 / 8 * 2 + token % 2;
}

template <int kBlocks>
__device__ __forceinline__ uint8_t* pair_group_at(const AttendArgs& args, const SectionSpan& span,
                                                  uint32_t runs, uint32_t head, uint32_t run,
                                                  uint32_t group) {
  return args.scratch + ((size_t{head} * runs + run) * span.groups + group) * Pair<kBlocks>::kGroupBytes;
}

// Unpacks the span's sections into scratch.
cudaError_t unpack_pairs(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream);

}  // namespace quire::cuda
