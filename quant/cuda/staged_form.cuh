// What a staged attention kernel is compiled for, and how sections come to a warp.
//
// A staged kernel knows codecs, head dimension and page size (64 tokens) when it is compiled. Each warp
// copies the sections it will need next into slots of shared memory of its own, keys and values in turns, and
// computes from there: what is under way does not take registers. Bytes lie in a slot as in the section,
// codes then meta, but for bits 5 and 6 of an address within the codes, which are mixed with the row: the
// rows that a warp reads at once start at the same bank.
#pragma once

#include "quant/cuda/warp_rows.cuh"

namespace quire::cuda {

inline constexpr uint32_t kStagedTokens = 64;
inline constexpr uint32_t kStagedWarps = 4;  // of a block
inline constexpr int kTokensOfThread = 16;   // of a section: token 32 (k / 8) + 8 i + k % 8 in element k

// Of levels in shared memory.
constexpr uint32_t table_bytes(CodecId id) {
  return is_trellis(id) ? kTrellisLevels : is_nonuniform(id) ? 16 : 0;
}

template <CodecId kKeyCodec, CodecId kValueCodec, int kBlockCount>
struct StagedForm {
  static constexpr CodecId kKey = kKeyCodec;
  static constexpr CodecId kValue = kValueCodec;
  static constexpr int kBlocks = kBlockCount;
  static constexpr uint32_t kDim = 32 * kBlockCount;
  static constexpr SectionShape kShape{kStagedTokens, kDim};
  static constexpr uint32_t kKeyCodes = static_cast<uint32_t>(code_bytes(*find_codec(kKey), kShape));
  static constexpr uint32_t kValueCodes = static_cast<uint32_t>(code_bytes(*find_codec(kValue), kShape));
  static constexpr uint32_t kKeyMeta =
      static_cast<uint32_t>(meta_bytes(*find_codec(kKey), Side::kKey, kShape));
  static constexpr uint32_t kValueMeta =
      static_cast<uint32_t>(meta_bytes(*find_codec(kValue), Side::kValue, kShape));
  // One is computed from, the others are under way: more where they are small.
  static constexpr uint32_t kSlots = bits_of(kKey) == 8 || bits_of(kValue) == 8 ? 2 : 3;
  // Of the side that a warp is at: scales of its tokens, midpoints where there are any.
  static constexpr uint32_t kScales = (has_means(kKey) && has_means(kValue) ? 1 : 2) * kStagedTokens;
  // Bytes of levels in shared memory, of keys and of values.
  static constexpr uint32_t kKeyTable = table_bytes(kKey);
  static constexpr uint32_t kTables = kKeyTable + table_bytes(kValue);
  static constexpr uint32_t kSlotBytes =
      kKeyCodes + kKeyMeta > kValueCodes + kValueMeta ? kKeyCodes + kKeyMeta : kValueCodes + kValueMeta;
};

// Rows that threads of a warp read at once differ in these two bits.
template <uint32_t kBits>
constexpr uint32_t row_mix(uint32_t row) {
  return (kBits == 8 ? row / 2 : row) % 4 * 32;
}

// Starts copying codes and meta of one side into a slot. Every thread of the warp takes part: each copies 16
// of 512 bytes at a time. What depends on the thread and what on the turn mix different bits and so are mixed
// apart.
template <uint32_t kBits, uint32_t kCodeBytes, uint32_t kMetaBytes, uint32_t kLanes>
__device__ __forceinline__ void stage_side(uint8_t* slot, const uint8_t* codes, const uint8_t* meta) {
  constexpr uint32_t kStep = 16 * kWarpLanes;
  constexpr uint32_t kRowBytes = 4 * kLanes;
  static_assert(kStep % kRowBytes == 0 || kRowBytes % kStep == 0);
  const uint32_t first = 16 * (threadIdx.x % kWarpLanes);
  const uint32_t mixed = first ^ row_mix<kBits>(first / kRowBytes);
  const uint8_t* from = codes + first;
#pragma unroll
  for (uint32_t offset = 0; offset < kCodeBytes; offset += kStep) {
    copy_async16(slot + offset + (mixed ^ row_mix<kBits>(offset / kRowBytes)), from + offset);
  }
  const uint8_t* meta_from = meta + first;
#pragma unroll
  for (uint32_t offset = 0; offset < kMetaBytes; offset += kStep) {
    if (offset + first < kMetaBytes) copy_async16(slot + kCodeBytes + offset + first, meta_from + offset);
  }
}

}  // namespace quire::cuda
