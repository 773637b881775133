// The outliers of non-uniform codecs: which member of each lane, a token of keys or a channel of values, lies
// farthest out of its group, by way of shared memory. Called by all threads of a block.
#pragma once

#include "quant/cuda/nuq_fold.cuh"

namespace quire::cuda {

inline constexpr uint32_t kNoGroup = 0xFFFFU;

// A member of a lane: the farthest out is its outlier, the one of the lowest group among equals.
struct Candidate {
  float distance;
  uint32_t group;

  __device__ __forceinline__ void merge(const Candidate& other) {
    if (other.distance < distance || (other.distance == distance && group <= other.group)) return;
    *this = other;
  }
};

// The farthest of kFours times four members, its number as its group, the first among equals. four_at(i): the
// distances of the i-th four, which are told apart when it is known which four have it.
template <uint32_t kFours, typename FourAt>
__device__ __forceinline__ Candidate farthest_member(FourAt four_at) {
  float farthest = -INFINITY;
  uint32_t which = 0;
#pragma unroll
  for (uint32_t i = 0; i < kFours; ++i) {
    const float4 four = four_at(i);
    const float most = fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
    if (farthest < most) which = i;
    farthest = fmaxf(farthest, most);
  }
  const float4 four = four_at(which);
  const uint32_t place = four.x == farthest ? 0 : four.y == farthest ? 1 : four.z == farthest ? 2 : 3;
  return {farthest, 4 * which + place};
}

// What a group's codes were made with and what a reader has: midpoint, inverse, fitted unit and midpoint.
__device__ __forceinline__ void store_group(float4* at, const GroupUnits& ranged, const NuqGroup& fitted) {
  store_as<float4>(at, make_float4(ranged.mid, ranged.inverse, fitted.unit(), fitted.mid()));
}

// As stored. value: the outlier itself.
__device__ __forceinline__ uint32_t fold_outlier(uint32_t group, float value, const float4* groups,
                                                 const NuqSearch& search) {
  const auto of = load_as<float4>(groups + group);
  const uint32_t entry = search.find(__fmul_rn(__fsub_rn(value, of.x), of.y));
  const auto level = static_cast<float>(static_cast<int8_t>(entry >> 8));
  return nuq_outlier(group, __fsub_rn(value, __fadd_rn(__fmul_rn(level, of.z), of.w)));
}

// Of rows in shared memory, of which kParts threads search one each: they take four channels each in turns.
// The padding keeps eight of them off each other's banks.
template <uint32_t kDim, uint32_t kTokens>
struct KeyDistances {
  static constexpr uint32_t kParts = kDim / kTokens;
  static constexpr uint32_t kStride = kDim + 4 * kParts;
  static constexpr uint32_t kFloats = kTokens * kStride;

  // Of the thread's token threadIdx.x / kParts; every thread of it gets the result.
  __device__ __forceinline__ static Candidate farthest(const float* rows) {
    const uint32_t part = threadIdx.x % kParts;
    const float* row = rows + threadIdx.x / kParts * kStride + 4 * part;
    Candidate best =
        farthest_member<kTokens / 4>([&](uint32_t i) { return load_as<float4>(row + 4 * kParts * i); });
    best.group = best.group / 4 * (4 * kParts) + 4 * part + best.group % 4;
#pragma unroll
    for (uint32_t lanes = 1; lanes < kParts; lanes *= 2) {
      best.merge({__shfl_xor_sync(kAllLanes, best.distance, static_cast<int>(lanes)),
                  __shfl_xor_sync(kAllLanes, best.group, static_cast<int>(lanes))});
    }
    return best;
  }
};

}  // namespace quire::cuda
