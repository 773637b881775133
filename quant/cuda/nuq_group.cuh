// A group of a non-uniform codec: what is stored of it and how that is found. FORMATS.md "Non-uniform
// codecs".
#pragma once

#include "quant/cuda/numbers.cuh"
#include "quant/nuq_levels.h"

namespace quire::cuda {

// Scale and midpoint as stored, and what they are worth.
struct NuqGroup {
  uint32_t scale_bits;
  uint32_t mid_bits;
  __device__ __forceinline__ float scale() const { return half_bits_to_float(scale_bits); }
  __device__ __forceinline__ float unit() const { return __fmul_rn(scale(), kNuqLevelUnit); }
  __device__ __forceinline__ float mid() const { return half_bits_to_float(mid_bits); }
  // What turns a value less the midpoint into level units.
  __device__ __forceinline__ float inverse() const { return scale() > 0.0F ? __frcp_rn(unit()) : 0.0F; }
};

// By the least and the largest member that is no outlier.
__device__ __forceinline__ NuqGroup nuq_ranged(float low, float high) {
  return {unsigned_zero_half(__fmul_rn(__fsub_rn(high, low), kNuqRangeToScale)),
          unsigned_zero_half(__fmul_rn(__fadd_rn(low, high), 0.5F))};
}

// Over the members that are no outliers, as they were folded.
struct NuqSums {
  float count;
  float levels;   // like the next one an integer below 2^24, exact in any order
  float squares;  // of levels
  float values;   // less the midpoint
  float energy;   // of these
};

// Q-Norm: the scale and midpoint that give the folded members the mean and the deviation of the members.
__device__ __forceinline__ NuqGroup nuq_fitted(const NuqSums& sums, const NuqGroup& from) {
  const float spread = __fsub_rn(__fmul_rn(sums.count, sums.energy), __fmul_rn(sums.values, sums.values));
  const float level_spread =
      __fsub_rn(__fmul_rn(sums.count, sums.squares), __fmul_rn(sums.levels, sums.levels));
  if (!(spread > 0.0F && level_spread > 0.0F)) return from;
  const float wanted = __fmul_rn(__fsqrt_rn(__fdiv_rn(spread, level_spread)), 1.0F / kNuqLevelUnit);
  const float least = __fmul_rn(from.scale(), 0.5F);
  const float most = __fmul_rn(from.scale(), 2.0F);
  NuqGroup fitted{};
  fitted.scale_bits = unsigned_zero_half(wanted < least ? least : most < wanted ? most : wanted);
  const float rest = __fdiv_rn(__fsub_rn(sums.values, __fmul_rn(fitted.unit(), sums.levels)), sums.count);
  fitted.mid_bits = unsigned_zero_half(__fadd_rn(from.mid(), rest));
  return fitted;
}

// 1 / the deviation of members of these squares, which add up; 0 where there is none. share: 1 / members.
__device__ __forceinline__ float nuq_inverse_deviation(float squares, float share) {
  constexpr float kNegligibleDeviation = 0x1p-60F;
  const float deviation = __fsqrt_rn(__fmul_rn(squares, share));
  return deviation < kNegligibleDeviation ? 0.0F : __frcp_rn(deviation);
}

// An outlier as stored. rest: what it lies above its code.
__device__ __forceinline__ uint32_t nuq_outlier(uint32_t group, float rest) {
  return group | uint32_t{f32_to_e5m2(rest)} << 8;
}

}  // namespace quire::cuda
