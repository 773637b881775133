// Groups of non-uniform codecs whose members are in registers: what all members of a group come to, and their
// codes. A channel of keys is one thread's, whose members are tokens; a token of values is four lanes', whose
// members are channels (encode_registers.cuh). All arithmetic and its order are FORMATS.md's.
#pragma once

#include "quant/cuda/encode_registers.cuh"
#include "quant/cuda/nuq_group.cuh"
#include "quant/cuda/nuq_search.cuh"

namespace quire::cuda {

// Members of a thread's group by number: member j of quad q is the 4 q + j-th.
template <int kQuads>
using Members = registers::Values<kQuads>;

// Which of a thread's members count for nothing: outliers, and sinks among tokens of keys.
template <int kQuads>
struct LeftOut {
  uint32_t bits[(kQuads + 7) / 8];  // of 32 members each
  __device__ __forceinline__ bool holds(int q, int j) const {
    return (bits[q / 8] >> (4 * (q % 8) + j) & 1U) != 0;
  }
  __device__ __forceinline__ uint32_t count() const {
    uint32_t sum = 0;
    for (const uint32_t word : bits) sum += static_cast<uint32_t>(__popc(word));
    return sum;
  }
  // To be asked again, after registers were needed for other things.
  __device__ __forceinline__ LeftOut anew() const {
    LeftOut same;
#pragma unroll
    for (uint32_t w = 0; w < std::size(bits); ++w) same.bits[w] = made_anew(bits[w]);
    return same;
  }
};
struct NoneLeftOut {
  __device__ __forceinline__ static constexpr bool holds(int /*q*/, int /*j*/) { return false; }
  __device__ __forceinline__ static constexpr uint32_t count() { return 0; }
};

// The sum of term(q, j) over a group, in FORMATS.md's order; that it begins at 0 can only change a zero's
// sign.
template <bool kKeys, int kQuads, typename Term>
__device__ __forceinline__ float sum_group(Term term) {
  float sums[4] = {};
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& sum = sums[kKeys ? 0 : j];
      sum = __fadd_rn(sum, term(q, j));
    }
  }
  if constexpr (kKeys) return sums[0];
  return registers::sum_of_token(sums);
}

// What the four lanes of a token of values have, together; of keys a thread has it all.
template <bool kKeys, typename T, typename Op>
__device__ __forceinline__ T over_group(T value, Op op) {
  if constexpr (!kKeys) {
    value = op(value, __shfl_xor_sync(kAllLanes, value, 1));
    value = op(value, __shfl_xor_sync(kAllLanes, value, 2));
  }
  return value;
}

struct GroupRange {
  float low;
  float high;
};

// No member at all: low is above high.
template <bool kKeys, int kQuads, typename Left>
__device__ __forceinline__ GroupRange range_of(const Members<kQuads>& members, const Left& left_out) {
  GroupRange range{INFINITY, -INFINITY};
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (left_out.holds(q, j)) continue;
      range.low = fminf(range.low, members.x[q][j]);
      range.high = fmaxf(range.high, members.x[q][j]);
    }
  }
  return {over_group<kKeys>(range.low, [](float a, float b) { return fminf(a, b); }),
          over_group<kKeys>(range.high, [](float a, float b) { return fmaxf(a, b); })};
}

// How far out of its group a member lies.
struct GroupSpread {
  float mean;
  float inverse;  // 1 / the deviation, or 0
  __device__ __forceinline__ float distance(float value) const {
    return __fmul_rn(fabsf(__fsub_rn(value, mean)), inverse);
  }
};

// share: 1 / members.
template <bool kKeys, int kQuads>
__device__ __forceinline__ float mean_of(const Members<kQuads>& members, float share) {
  return __fmul_rn(sum_group<kKeys, kQuads>([&](int q, int j) { return members.x[q][j]; }), share);
}
template <bool kKeys, int kQuads>
__device__ __forceinline__ GroupSpread spread_of(const Members<kQuads>& members, float mean, float share) {
  const float squares = sum_group<kKeys, kQuads>([&](int q, int j) {
    const float from_mean = __fsub_rn(members.x[q][j], mean);
    return __fmul_rn(from_mean, from_mean);
  });
  return {mean, nuq_inverse_deviation(squares, share)};
}

// What turns members into level units.
struct GroupUnits {
  float mid;
  float inverse;
  __device__ __forceinline__ explicit GroupUnits(const NuqGroup& group)
      : mid(group.mid()), inverse(group.inverse()) {}
};

// Codes of the members, in `codes`, and what those that are not left out add up to. Members times `down` are
// x'. That product needs no rounding of its own: `down` is a power of two, so it is exact, or below 2^-126,
// where a midpoint is 0, or a half that no such number changes.
template <bool kKeys, int kQuads, typename Left>
__device__ __forceinline__ NuqSums fold_members(const Members<kQuads>& members, float down,
                                                const Left& left_out, const GroupUnits& units,
                                                const NuqSearch& search, registers::Codes<kQuads>& codes) {
  float values[4] = {};
  float energies[4] = {};
  int levels = 0;
  int squares = 0;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    uint32_t entry[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float d = __fmaf_rn(members.x[q][j], down, -units.mid);
      entry[j] = search.find(__fmul_rn(d, units.inverse));
      if (left_out.holds(q, j)) {
        entry[j] &= 0xFFU;  // a level of 0
        continue;           // the zeros that it would add change nothing
      }
      const int chain = kKeys ? 0 : j;
      values[chain] = __fadd_rn(values[chain], d);
      energies[chain] = __fadd_rn(energies[chain], __fmul_rn(d, d));
    }
    const uint32_t low = __byte_perm(entry[0], entry[1], 0x5410U);
    const uint32_t high = __byte_perm(entry[2], entry[3], 0x5410U);
    codes.quad[q] = __byte_perm(low, high, 0x6420U);
    const auto quad = static_cast<int>(__byte_perm(low, high, 0x7531U));
    levels = __dp4a(quad, 0x01010101, levels);
    squares = __dp4a(quad, quad, squares);
  }
  const auto add = [](auto a, auto b) { return a + b; };
  const auto members_left = static_cast<int>(4 * kQuads - left_out.count());
  NuqSums sums{};
  sums.count = static_cast<float>(over_group<kKeys>(members_left, add));
  sums.levels = static_cast<float>(over_group<kKeys>(levels, add));
  sums.squares = static_cast<float>(over_group<kKeys>(squares, add));
  if constexpr (kKeys) {
    sums.values = values[0];
    sums.energy = energies[0];
  } else {
    sums.values = registers::sum_of_token(values);
    sums.energy = registers::sum_of_token(energies);
  }
  return sums;
}

}  // namespace quire::cuda
