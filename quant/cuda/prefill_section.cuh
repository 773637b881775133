// A section in shared memory, as prefill tiles take it: copied, and unpacked once for all rows of a block.
#pragma once

#include "quant/cuda/launch.h"
#include "quant/cuda/prefill_unpack.cuh"

namespace quire::cuda {

inline constexpr uint32_t kPrefillWarps = 8;
inline constexpr uint32_t kPrefillThreads = kPrefillWarps * kWarpLanes;
inline constexpr uint32_t kMeansAtOnce = 8;  // sections whose means of values are multiplied together
inline constexpr float kTopWeight = 255.0F;
inline constexpr int kSumBits = 0x4B400000;  // of 1.5 * 2^23: a sum below 2^22 that starts there reads as a
inline constexpr float kSumFloat = 12582912.0F;  // float, kSumFloat more than it is

template <int kBlocks>
struct Unpacked {
  static constexpr uint32_t kDim = kBlocks * 32;
  static constexpr uint32_t kUnits = 2 * kBlocks;  // of a side
  static constexpr uint32_t kSideBytes = kUnits * kUnitBytes;
  uint8_t* keys;        // [group of 32 tokens][block of 32 channels] units
  uint8_t* values;      // the same
  int8_t* key_means;    // [dim] codes, eights in pack_order<true>
  float* key_scales;    // [64]
  float* value_shares;  // [64]: of the largest scale, times kTopWeight
  float4* steps;        // of codes of key means, of value means; of weights times levels
};

// Means of values of kMeansAtOnce sections, as bf16 of their codes: [n-tiles of a row's
// state][column][sections].
template <int kBlocks>
__device__ __forceinline__ uint32_t mean_place(uint32_t channel, uint32_t section) {
  const uint32_t tile = channel / 32 * 4 + channel % 4;
  return (tile * 8 + channel % 32 / 4) * kMeansAtOnce + section % kMeansAtOnce;
}

// A section as it was copied: codes, mixed (PackedCodes), then meta of keys and of values: [64 + dim] each.
template <int kBlocks>
__device__ __forceinline__ void copy_section(const SectionLayout& layout, const uint8_t* section,
                                             uint8_t* packed) {
  constexpr uint32_t kDim = kBlocks * 32;
  const uint32_t end = layout.key_meta + 2 * (kPrefillTokens + kDim);
  for (uint32_t at = 16 * threadIdx.x; at < end; at += 16 * kPrefillThreads) {
    const uint32_t row =
        at < layout.value_codes ? at / (kPrefillTokens * 4) : (at - layout.value_codes) / (kDim * 4);
    const uint32_t mixed = at < layout.key_meta ? at ^ row % 4 * 32 : at;
    copy_async16(packed + mixed, section + at);
  }
}

// Means of keys and of values, scales of tokens: one of them to a thread at a time.
template <int kBlocks>
__device__ __forceinline__ void unpack_meta(const SectionFormat& format, const SectionRef& ref,
                                            const uint8_t* key_meta, const Unpacked<kBlocks>& to,
                                            uint16_t* means, uint32_t column) {
  constexpr uint32_t kDim = kBlocks * 32;
  const uint8_t* value_meta = key_meta + kPrefillTokens + kDim;
#pragma unroll 1
  for (uint32_t place = threadIdx.x; place < 2 * (kPrefillTokens + kDim); place += kPrefillThreads) {
    if (place < kPrefillTokens) {
      to.key_scales[place] = token_scale(format.key, ref.key_param, key_meta[place]);
    } else if (place < 2 * kPrefillTokens) {
      const uint32_t t = place - kPrefillTokens;
      const float top = token_scale(format.value, ref.value_param, 255);
      const float scale = token_scale(format.value, ref.value_param, value_meta[t]);
      to.value_shares[t] = top > 0.0F ? scale * (kTopWeight * reciprocal_approx(top)) : 0.0F;
      if (t == 0) {
        *to.steps = make_float4(mean_step(format.key, ref.key_param),
                                mean_step(format.value, ref.value_param), top * (1.0F / kTopWeight), 0.0F);
      }
    } else if (place < 2 * kPrefillTokens + kDim) {
      const uint32_t c = place - 2 * kPrefillTokens;
      const auto code = static_cast<int8_t>(value_meta[kPrefillTokens + c]);
      means[mean_place<kBlocks>(c, column)] =
          static_cast<uint16_t>(__float_as_uint(static_cast<float>(code)) >> 16);
    } else {
      const uint32_t c = place - 2 * kPrefillTokens - kDim;
      const uint32_t in_eight = c % 4 / 2 * 4 + c % 2 * 2 + c % 8 / 4;
      to.key_means[c / 8 * 8 + in_eight] = static_cast<int8_t>(key_meta[kPrefillTokens + c]);
    }
  }
}

// Every warp of the block takes part. column: of the section in `means`.
template <int kBlocks>
__device__ __forceinline__ void unpack_section(const SectionFormat& format, const SectionRef& ref, Lane at,
                                               const int8_t* levels, const uint8_t* packed,
                                               const Unpacked<kBlocks>& to, uint16_t* means,
                                               uint32_t column) {
  constexpr uint32_t kDim = kBlocks * 32;
  constexpr uint32_t kUnits = Unpacked<kBlocks>::kUnits;
  const PackedCodes keys{packed, kPrefillTokens, kDim};
  const PackedCodes values{packed + format.layout.value_codes, kDim, kPrefillTokens};
#pragma unroll 1
  for (uint32_t unit = threadIdx.x / kWarpLanes; unit < kUnits; unit += kPrefillWarps) {
    const uint32_t group = unit / kBlocks;
    const uint32_t block = unit % kBlocks;
    store_unit(to.keys + unit * kUnitBytes, unpack_unit(format.key, keys, levels, block, group * 32, at));
    store_unit(to.values + unit * kUnitBytes,
               unpack_unit(format.value, values, levels + kDecodeLevels, group, block * 32, at));
  }
  unpack_meta(format, ref, packed + format.layout.key_meta, to, means, column);
}

// Two of each, by address arithmetic: arrays of structs would go to local memory.
template <int kBlocks>
struct Slots {
  static constexpr uint32_t kDim = kBlocks * 32;
  static constexpr uint32_t kMeanWords = kDim * kMeansAtOnce;
  static constexpr uint32_t kRefs = 4;  // those of the section attended and of the three that follow
  uint32_t packed_bytes;
  uint8_t* first_packed;
  Unpacked<kBlocks> first_unpacked;
  uint16_t* first_means;
  SectionRef* refs;

  __device__ __forceinline__ Slots(const SectionFormat& format, Smem& shared)
      : packed_bytes(packed_size(format)) {
    first_packed = shared.take<uint8_t>(size_t{2} * packed_bytes);
    first_unpacked.keys = shared.take<uint8_t>(2 * Unpacked<kBlocks>::kSideBytes);
    first_unpacked.values = shared.take<uint8_t>(2 * Unpacked<kBlocks>::kSideBytes);
    first_unpacked.key_means = shared.take<int8_t>(2 * kDim);
    first_unpacked.key_scales = shared.take<float>(2 * kPrefillTokens);
    first_unpacked.value_shares = shared.take<float>(2 * kPrefillTokens);
    first_unpacked.steps = shared.take<float4>(2);
    first_means = shared.take<uint16_t>(2 * kMeanWords);
    refs = shared.take<SectionRef>(kRefs);
  }
  static constexpr __host__ __device__ uint32_t packed_size(const SectionFormat& format) {
    return format.layout.key_meta + 2 * (kPrefillTokens + kDim);
  }
  static constexpr size_t bytes(const SectionFormat& format) {
    return size_t{2} * (packed_size(format) + 2 * Unpacked<kBlocks>::kSideBytes + kDim +
                        kPrefillTokens * 2 * sizeof(float) + sizeof(float4) + kMeanWords * sizeof(uint16_t)) +
           kRefs * sizeof(SectionRef);
  }
  __device__ __forceinline__ uint8_t* packed(uint32_t slot) const {
    return first_packed + slot * packed_bytes;
  }
  __device__ __forceinline__ Unpacked<kBlocks> unpacked(uint32_t slot) const {
    constexpr uint32_t kSide = Unpacked<kBlocks>::kSideBytes;
    return {first_unpacked.keys + slot * kSide,
            first_unpacked.values + slot * kSide,
            first_unpacked.key_means + slot * kDim,
            first_unpacked.key_scales + slot * kPrefillTokens,
            first_unpacked.value_shares + slot * kPrefillTokens,
            first_unpacked.steps + slot};
  }
  // Of the kMeansAtOnce sections that `section` (counted from the block's first) is one of.
  __device__ __forceinline__ uint16_t* means(uint32_t section) const {
    return first_means + section / kMeansAtOnce % 2 * kMeanWords;
  }
};

}  // namespace quire::cuda
