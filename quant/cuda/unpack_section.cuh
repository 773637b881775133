// A section of any codecs that prefill tiles take, unpacked: what the two kinds of tiles share
// (prefill_unpack.cu, unpack_pairs.cu). Where codes are levels they are looked up (prefill_unpack.cuh), else
// values are made anew (requantise.cuh).
#pragma once

#include "quant/cuda/requantise.cuh"

namespace quire::cuda {

// Calls body with the number of bits as a constant.
template <typename Body>
__device__ __forceinline__ void with_bits(uint32_t bits, const Body& body) {
  if (bits == 4) {
    body(std::integral_constant<uint32_t, 4>{});
  } else if (bits == 3) {
    body(std::integral_constant<uint32_t, 3>{});
  } else {
    body(std::integral_constant<uint32_t, 2>{});
  }
}

// All keys and values by all warps. To: keys(group, block, unit), of what requantise_keys makes one_key, and
// values(group, block, unit). kRequantised: a side or both are; scales of tokens are in `groups` after the
// next barrier.
template <bool kRequantised, int kBlocks, typename To>
__device__ __forceinline__ void unpack_section(const CopiedSection<kBlocks>& section, Lane at, const To& to) {
  const CopiedSide keys = section.keys();
  const CopiedSide values = section.values();
  const uint32_t warp = threadIdx.x / kWarpLanes;
  const bool new_keys = kRequantised && is_requantised(keys.codec);
  const bool new_values = kRequantised && is_requantised(values.codec);
  for (uint32_t unit = warp; unit < 2 * kBlocks; unit += kUnpackThreads / kWarpLanes) {
    const uint32_t group = unit / kBlocks;
    const uint32_t block = unit % kBlocks;
    if (!new_keys) {
      to.keys(group, block, unpack_unit(keys.codec, keys.packed, keys.levels, block, group * 32, at));
    }
    if (!new_values) {
      to.values(group, block, unpack_unit(values.codec, values.packed, values.levels, group, block * 32, at));
    } else if constexpr (kRequantised) {
      with_bits(values.codec.bits, [&](auto bits) {
        to.values(group, block,
                  requantise_values<bits(), kBlocks>(values, group, block, at, *section.groups));
      });
    }
  }
  if constexpr (kRequantised) {
    if (!new_keys) return;
    static_assert(kUnpackThreads / kWarpLanes == kPrefillTokens / 8);
    with_bits(keys.codec.bits, [&](auto bits) {
      requantise_keys<bits(), kBlocks>(keys, warp / 4, warp % 4, at, section.groups, to);
    });
  }
}

// What is known of one side of a section besides its codes.
struct SideScales {
  DeviceCodec codec;
  uint32_t param;
  const uint8_t* meta;  // of rotated and trellis codecs
  const float* scales;  // [64] of a requantised side, or nullptr
  float mean_step;
  float top;  // of values: the largest scale

  __device__ __forceinline__ float of_token(uint32_t t) const {
    return scales != nullptr ? scales[t] : token_scale(codec, param, meta[t]);
  }
  __device__ __forceinline__ int8_t mean_code(uint32_t channel) const {
    return scales != nullptr ? int8_t{0} : static_cast<int8_t>(meta[kPrefillTokens + channel]);
  }
};
template <bool kRequantised, int kBlocks>
__device__ __forceinline__ SideScales key_scales(const CopiedSection<kBlocks>& section) {
  const DeviceCodec& codec = section.format.key;
  const uint8_t* meta = section.copied + section.format.layout.key_meta;
  if constexpr (kRequantised) {
    if (is_requantised(codec)) return {codec, 0, meta, section.groups->key_scales, 0.0F, 0.0F};
  }
  const uint32_t param = section.ref.key_param;
  return {codec, param, meta, nullptr, mean_step(codec, param), 0.0F};
}
// Every thread of a warp takes part.
template <bool kRequantised, int kBlocks>
__device__ __forceinline__ SideScales value_scales(const CopiedSection<kBlocks>& section) {
  const DeviceCodec& codec = section.format.value;
  const uint8_t* meta = section.copied + section.format.layout.value_meta;
  if constexpr (kRequantised) {
    if (is_requantised(codec)) {
      const float* scales = section.groups->value_scales;
      const uint32_t lane = threadIdx.x % kWarpLanes;
      float top = fmaxf(scales[lane], scales[lane + kWarpLanes]);
#pragma unroll
      for (int h = 1; h < static_cast<int>(kWarpLanes); h *= 2)
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, h));
      return {codec, 0, meta, scales, 0.0F, top};
    }
  }
  const uint32_t param = section.ref.value_param;
  return {codec, param, meta, nullptr, mean_step(codec, param), token_scale(codec, param, 255)};
}
// Of a small integer, which bf16 has exactly.
__device__ __forceinline__ uint16_t bf16_bits(int8_t value) {
  return static_cast<uint16_t>(__float_as_uint(static_cast<float>(value)) >> 16);
}

// Calls unpack with the blocks of a section and whether a side of it is requantised as constants.
template <typename Unpack>
cudaError_t with_unpacking(const SectionFormat& format, const Unpack& unpack) {
  const bool requantised = is_requantised(format.key) || is_requantised(format.value);
  constexpr std::integral_constant<int, 2> kTwo;
  constexpr std::integral_constant<int, 4> kFour;
  if (format.shape.dim == 64) {
    return requantised ? unpack(kTwo, std::true_type{}) : unpack(kTwo, std::false_type{});
  }
  return requantised ? unpack(kFour, std::true_type{}) : unpack(kFour, std::false_type{});
}

}  // namespace quire::cuda
