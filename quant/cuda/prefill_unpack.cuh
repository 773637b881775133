// From a folded section to what matrix instructions take, once for all rows of a block: codes become signed
// bytes in the order of fragments, scales and means floats.
//
// A unit is a block of 32 (along the reduction axis) by 32 lanes as operands.cuh has it: 1 KiB, of which a
// thread stores and later reads 32 bytes, [2][lanes of the warp][4 words], so that no access has a conflict.
// Bytes along the reduction axis stand in pack_order<true> whatever the codec. Which codec it is, is asked as
// it runs: the work is shared by so many rows that it hardly counts.
#pragma once

#include "quant/cuda/decoded.cuh"
#include "quant/cuda/trellis_operands.cuh"

namespace quire::cuda {

inline constexpr uint32_t kPrefillTokens = 64;  // of a section
inline constexpr uint32_t kUnitBytes = 1024;
inline constexpr uint32_t kUnpackThreads = 256;

__device__ __forceinline__ void store_unit(uint8_t* unit, const Operands& u) {
  uint8_t* at = unit + 16 * (threadIdx.x % kWarpLanes);
  store_as<uint4>(at, make_uint4(u.b[0][0], u.b[0][1], u.b[1][0], u.b[1][1]));
  store_as<uint4>(at + kUnitBytes / 2, make_uint4(u.b[2][0], u.b[2][1], u.b[3][0], u.b[3][1]));
}
__device__ __forceinline__ Operands load_unit(const uint8_t* unit) {
  const uint8_t* at = unit + 16 * (threadIdx.x % kWarpLanes);
  const auto low = load_as<uint4>(at);
  const auto high = load_as<uint4>(at + kUnitBytes / 2);
  return {{{low.x, low.y}, {low.z, low.w}, {high.x, high.y}, {high.z, high.w}}};
}

template <uint32_t kBits>
__device__ __forceinline__ Operands unpack_levels(const PackedCodes& packed, uint32_t block, uint32_t lane,
                                                  Lane at) {
  const uint32_t first = lane + 4 * at.g;
  const uint4 low = packed.load(kBits == 4 ? 4 * block + at.i : 2 * block + at.i / 2, first);
  uint4 high{};
  if constexpr (kBits == 3) high = packed.load(packed.reduction / 16 + block, first);
  Operands unit;
#pragma unroll
  for (int t = 0; t < 4; ++t)
    look_up<kBits>(nibbles<kBits>(component(low, t), component(high, t), at.i), unit.b[t]);
  return unit;
}

// levels: [64] in shared memory, of trellis codecs.
__device__ __forceinline__ Operands unpack_unit(const DeviceCodec& codec, const PackedCodes& packed,
                                                const int8_t* levels, uint32_t block, uint32_t lane,
                                                Lane at) {
  switch (codec.id) {
    case CodecId::kRot4:
      return unpack_levels<4>(packed, block, lane, at);
    case CodecId::kRot3:
      return unpack_levels<3>(packed, block, lane, at);
    case CodecId::kRot2:
      return unpack_levels<2>(packed, block, lane, at);
    case CodecId::kTcq4:
      return unpack_trellis<4>(packed, TrellisTable{levels}, block, lane, at);
    case CodecId::kTcq3:
      return unpack_trellis<3>(packed, TrellisTable{levels}, block, lane, at);
    case CodecId::kTcq2:
      return unpack_trellis<2>(packed, TrellisTable{levels}, block, lane, at);
    default:
      return unpack_trellis<1>(packed, TrellisTable{levels}, block, lane, at);
  }
}

// A section as it was copied: codes, mixed (PackedCodes), then meta of keys and of values.
constexpr __host__ __device__ uint32_t packed_bytes(const SectionLayout& layout) {
  return align_up(layout.sink_keys, 16);
}
// By all of kUnpackThreads.
template <int kBlocks>
__device__ __forceinline__ void copy_section(const SectionLayout& layout, const uint8_t* section,
                                             uint8_t* packed) {
  for (uint32_t at = 16 * threadIdx.x; at < packed_bytes(layout); at += 16 * kUnpackThreads) {
    const uint32_t row =
        at < layout.value_codes ? at / (kPrefillTokens * 4) : (at - layout.value_codes) / (kBlocks * 32 * 4);
    const uint32_t mixed = at < layout.key_meta ? at ^ row % 4 * 32 : at;
    copy_async16(packed + mixed, section + at);
  }
}
// levels: [2 * kDecodeLevels], of keys and of values; of uniform codecs the codes.
__device__ __forceinline__ void load_levels(const SectionFormat& format, int8_t* levels) {
  if (threadIdx.x < 2 * kDecodeLevels) {
    const bool key = threadIdx.x < kDecodeLevels;
    const uint32_t i = threadIdx.x % kDecodeLevels;
    const bool uniform = (key ? format.key : format.value).family == CodecFamily::kUniform;
    levels[threadIdx.x] =
        uniform ? static_cast<int8_t>(i) : table_level(format, key ? Side::kKey : Side::kValue, i);
  }
}

// The scale of a token, by its code.
__device__ __forceinline__ float token_scale(const DeviceCodec& codec, uint32_t param, uint32_t code) {
  if (codec.family == CodecFamily::kTrellis) return trellis_token_scale(param, code);
  return code == 0 ? 0.0F
                   : device_step_value(static_cast<int16_t>(param & 0xFFFFU) + static_cast<int>(code) - 255);
}
__device__ __forceinline__ float mean_step(const DeviceCodec& codec, uint32_t param) {
  return device_step_value(codec.family == CodecFamily::kTrellis ? trellis_mean_step(param)
                                                                 : static_cast<int16_t>(param >> 16));
}

}  // namespace quire::cuda
