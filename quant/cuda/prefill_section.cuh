// A section as prefill tiles take it: unpacked to bytes in the order of fragments, with everything that its
// rows need to know of it. It is made once (prefill_unpack.cu) for all rows of a call, lies in the call's
// scratch, and comes to shared memory by plain copies.
//
// Scratch holds groups of kMeansAtOnce sections of one run and head: the sections one after the other, then
// their means of values, which a matrix instruction multiplies together. Sections that a group lacks have
// means of 0 and are not read otherwise.
#pragma once

#include <algorithm>

#include "quant/cuda/launch.h"
#include "quant/cuda/prefill_unpack.cuh"

namespace quire::cuda {

inline constexpr uint32_t kMeansAtOnce = 8;  // sections whose means of values are multiplied together
inline constexpr float kTopWeight = 255.0F;
inline constexpr int kSumBits = 0x4B400000;  // of 1.5 * 2^23: a sum below 2^22 that starts there reads as a
inline constexpr float kSumFloat = 12582912.0F;  // float, kSumFloat more than it is

// Where the parts of a section lie, in bytes.
template <int kBlocks>
struct Unpacked {
  static constexpr uint32_t kDim = kBlocks * 32;
  static constexpr uint32_t kUnits = 2 * kBlocks;  // of a side
  static constexpr uint32_t kKeys = 0;             // [group of 32 tokens][block of 32 channels] units
  static constexpr uint32_t kValues = kKeys + kUnits * kUnitBytes;      // the same
  static constexpr uint32_t kKeyMeans = kValues + kUnits * kUnitBytes;  // [dim] codes, in pack_order<true>
  static constexpr uint32_t kKeyScales = kKeyMeans + kDim;              // [64] floats
  static constexpr uint32_t kValueShares = kKeyScales + kPrefillTokens * sizeof(float);
  // Floats, [64]: of the largest scale, times kTopWeight. Then steps of codes of key means and of value
  // means, and of weights times levels.
  static constexpr uint32_t kSteps = kValueShares + kPrefillTokens * sizeof(float);
  static constexpr uint32_t kBytes = kSteps + sizeof(float4);
  static constexpr uint32_t kMeanBytes = kDim * kMeansAtOnce * sizeof(uint16_t);
  static constexpr uint32_t kGroupBytes = kMeansAtOnce * kBytes + kMeanBytes;
  static_assert(kBytes % 16 == 0);
};

// Means of values of a group, as bf16 of their codes: a thread of a warp reads 16 bytes per block of
// channels, those of two sections in four n-tiles.
__device__ __forceinline__ uint32_t mean_place(uint32_t channel, uint32_t section) {
  const uint32_t lane = channel % 32 / 4 * 4 + section % kMeansAtOnce / 2;
  return ((channel / 32 * kWarpLanes + lane) * 4 + channel % 4) * 2 + section % 2;
}

// Which sections of its runs a launch is about, and where they lie in scratch.
struct SectionSpan {
  uint32_t first;   // of each run, a multiple of kMeansAtOnce
  uint32_t count;   // at most, of each run
  uint32_t groups;  // of each run
};
// How many of the span's sections there are in a run of a head.
__device__ __forceinline__ uint32_t sections_here(const AttendArgs& args, const SectionSpan& span,
                                                  uint32_t head, uint32_t run) {
  const uint32_t begin = run * args.run_sections;
  const uint32_t all = sections_of(args, head);
  const uint32_t of_run = all > begin ? min(args.run_sections, all - begin) : 0;
  return of_run > span.first ? min(of_run - span.first, span.count) : 0;
}
template <int kBlocks>
__device__ __forceinline__ uint8_t* group_at(const AttendArgs& args, const SectionSpan& span, uint32_t runs,
                                             uint32_t head, uint32_t run, uint32_t group) {
  return args.scratch + ((size_t{head} * runs + run) * span.groups + group) * Unpacked<kBlocks>::kGroupBytes;
}

// Bytes of eight integers or weights, in the lowest bytes of floats, in pack_order<true>.
__device__ __forceinline__ void pack_low_bytes(const float* x, uint32_t& first, uint32_t& second) {
  const auto pair = [&](int a, int b) {
    return __byte_perm(__float_as_uint(x[a]), __float_as_uint(x[b]), 0x0040U);
  };
  first = __byte_perm(pair(0, 4), pair(1, 5), 0x5410U);
  second = __byte_perm(pair(2, 6), pair(3, 7), 0x5410U);
}

// Unpacks the span's sections into scratch.
cudaError_t unpack_for_prefill(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream);

// Where the partial of a row of this block's run stands.
__device__ __forceinline__ size_t partial_of(const AttendArgs& args, uint32_t head, uint32_t row) {
  return (size_t{head} * gridDim.x + blockIdx.x) * args.rows + row;
}
// Of the block's rows, where the head has no section in the run.
template <int kBlocks>
__device__ __forceinline__ void store_empty(const AttendArgs& args, uint32_t head, uint32_t first_row,
                                            uint32_t most_rows) {
  constexpr uint32_t kDim = kBlocks * 32;
  const uint32_t rows = min(most_rows, args.rows - first_row);
  const size_t out = partial_of(args, head, first_row);
  for (uint32_t i = threadIdx.x; i < rows * kDim; i += blockDim.x) args.partials.o[out * kDim + i] = 0.0F;
  for (uint32_t r = threadIdx.x; r < rows; r += blockDim.x) {
    args.partials.m[out + r] = -INFINITY;
    args.partials.l[out + r] = 0.0F;
  }
}

// Calls attend(span) for one part of the runs after the other, each as many groups of `group_bytes` as
// scratch takes.
template <typename Attend>
cudaError_t attend_spans(const AttendArgs& args, size_t group_bytes, const Attend& attend) {
  const uint64_t of_groups = uint64_t{args.kv_heads} * run_count(args) * group_bytes;
  const uint32_t groups = (args.run_sections + kMeansAtOnce - 1) / kMeansAtOnce;
  const auto room = static_cast<uint32_t>(std::min<uint64_t>(args.scratch_bytes / of_groups, groups));
  if (args.scratch == nullptr || room == 0) return cudaErrorNotSupported;
  const uint32_t launches = (groups + room - 1) / room;
  const uint32_t at_once = (groups + launches - 1) / launches;
  for (uint32_t group = 0; group < groups; group += at_once) {
    const uint32_t here = std::min(at_once, groups - group);
    const cudaError_t error = attend(SectionSpan{group * kMeansAtOnce, here * kMeansAtOnce, here});
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace quire::cuda
