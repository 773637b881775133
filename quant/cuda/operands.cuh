// From code arrays to the operands of matrix instructions.
//
// A warp works on blocks of 32 (along the reduction axis) by 32 lanes of the array (tokens of keys, channels
// of values). One 16-byte load per thread brings what four mma.m16n8k32 need of 4-bit codes: in dot-quads the
// fragment of B is what lies in memory. With i = l % 4 and g = l / 4, thread l holds
//   lanes       4 g + t of the block, for the n-tile t of 0..3 as its column g;
//   reduction   8 i .. 8 i + 7, four in b[0] and four in b[1].
// Where codes are looked up, nibbles come out as {0, 4, 1, 5} and {2, 6, 3, 7} of the eight instead of in
// order; the other operand is then packed the same way (pack_order), since a sum does not care. The
// accumulator's columns 2 i + c of tile t are lanes 8 i + 4 c + t: what a thread gets of scores is what it
// needs as weights, eight tokens in a row, and no value ever moves between threads.
#pragma once

#include "quant/cuda/numbers.cuh"

namespace quire::cuda {

// Where a thread stands in a warp's fragments.
struct Lane {
  uint32_t i;  // 0..3
  uint32_t g;  // 0..7
};
__device__ __forceinline__ Lane this_lane() {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  return {lane % 4, lane / 4};
}

// One side's code array: [reduction][lanes].
struct CodeArray {
  const uint8_t* codes;
  uint32_t reduction;
  uint32_t lanes;
};

// B operands of the four n-tiles.
struct Operands {
  uint32_t b[4][2];
};

constexpr bool is_rotated(CodecId id) { return find_codec(id)->family == CodecFamily::kRotated; }
constexpr bool is_trellis(CodecId id) { return find_codec(id)->family == CodecFamily::kTrellis; }
constexpr bool is_nonuniform(CodecId id) { return find_codec(id)->family == CodecFamily::kNonUniform; }
constexpr bool has_outliers(CodecId id) { return find_codec(id)->outliers; }
// A code alone says which level it is.
constexpr bool looked_up(CodecId id) { return is_rotated(id) || is_nonuniform(id); }
// Operands are levels, with a sign, in pack_order<true>.
constexpr bool has_levels(CodecId id) { return looked_up(id) || is_trellis(id); }
// Codecs in rotated space: scales per token, means of the section. Others have midpoints.
constexpr bool has_means(CodecId id) { return is_rotated(id) || is_trellis(id); }
constexpr uint32_t bits_of(CodecId id) { return find_codec(id)->bits; }
constexpr uint32_t levels_word(uint32_t bits, uint32_t first) {
  const LevelTable table = level_table(bits);
  uint32_t word = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    if (first + i >= table.levels.size()) break;
    word |= uint32_t{static_cast<uint8_t>(table.levels[first + i])} << (8 * i);
  }
  return word;
}

// The element of eight that stands in byte e of register r.
template <bool kLookedUp>
constexpr uint32_t pack_order(uint32_t r, uint32_t e) {
  return kLookedUp ? 2 * r + e / 2 + e % 2 * 4 : 4 * r + e;
}

__device__ __forceinline__ void load_eight(const float* from, float (&x)[8]) {
  const auto low = load_as<float4>(from);
  const auto high = load_as<float4>(from + 4);
  const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int k = 0; k < 8; ++k) x[k] = eight[k];
}
__device__ __forceinline__ void load_eight_halves(const uint8_t* from, float (&x)[8]) {
  const auto words = load_as<uint4>(from);
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int k = 0; k < 8; ++k) x[k] = half_bits_to_float(pairs[k / 2] >> (16 * (k % 2)) & 0xFFFFU);
}

__device__ __forceinline__ uint4 load_words(const uint8_t* plane, uint32_t row, uint32_t lanes,
                                            uint32_t lane) {
  return load_as<uint4>(plane + (size_t{row} * lanes + lane) * 4);
}

// Eight codes of up to 4 bits as nibbles: the low ones of the bytes are elements 0..3, the high ones 4..7.
// low, high: words of the planes.
template <uint32_t kBits>
__device__ __forceinline__ uint32_t nibbles(uint32_t low, uint32_t high, uint32_t i) {
  if constexpr (kBits == 4) return low;
  const uint32_t pairs = low >> (4 * (i & 1U));
  uint32_t word = (pairs & 0x03030303U) | (pairs & 0x0C0C0C0CU) << 2;
  if constexpr (kBits == 3) {
    const uint32_t top = high >> (2 * i);
    word |= (top & 0x01010101U) << 2 | (top & 0x02020202U) << 5;
  }
  return word;
}

// Levels of eight nibbles, four bytes each, in pack_order<true>. table: 2^kBits levels.
template <uint32_t kBits>
__device__ __forceinline__ void look_up(const uint4& table, uint32_t word, uint32_t (&b)[2]) {
  if constexpr (kBits < 4) {
    b[0] = __byte_perm(table.x, table.y, word);
    b[1] = __byte_perm(table.x, table.y, word >> 16);
  } else {
    const uint32_t index = word & 0x77777777U;
    // Selects byte e of the first or of the second half by bit 3 of nibble e.
    const uint32_t half = (word >> 1 & 0x44444444U) | 0x32103210U;
    b[0] = __byte_perm(__byte_perm(table.x, table.y, index), __byte_perm(table.z, table.w, index), half);
    b[1] = __byte_perm(__byte_perm(table.x, table.y, index >> 16), __byte_perm(table.z, table.w, index >> 16),
                       half >> 16);
  }
}
// Of rotated codecs.
template <uint32_t kBits>
__device__ __forceinline__ void look_up(uint32_t word, uint32_t (&b)[2]) {
  constexpr uint32_t kWords[4] = {levels_word(kBits, 0), levels_word(kBits, 4), levels_word(kBits, 8),
                                  levels_word(kBits, 12)};
  look_up<kBits>(make_uint4(kWords[0], kWords[1], kWords[2], kWords[3]), word, b);
}

// Block `block` along the reduction, lanes from `lane` on. Looked-up codes come as signed levels, 8-bit codes
// as code - 128, others as they are.
template <CodecId kId>
__device__ __forceinline__ Operands load_operands(const CodeArray& array, uint32_t block, uint32_t lane,
                                                  Lane at) {
  constexpr uint32_t kBits = bits_of(kId);
  const uint32_t first = lane + 4 * at.g;
  Operands operands;
  if constexpr (kBits == 8) {
    const uint32_t quad = 8 * block + 2 * at.i;
    const uint4 even = load_words(array.codes, quad, array.lanes, first);
    const uint4 odd = load_words(array.codes, quad + 1, array.lanes, first);
    const uint32_t words[2][4] = {{even.x, even.y, even.z, even.w}, {odd.x, odd.y, odd.z, odd.w}};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      operands.b[t][0] = words[0][t] ^ 0x80808080U;
      operands.b[t][1] = words[1][t] ^ 0x80808080U;
    }
    return operands;
  } else {
    const uint32_t row = kBits == 4 ? 4 * block + at.i : 2 * block + at.i / 2;
    const uint4 low = load_words(array.codes, row, array.lanes, first);
    uint4 high{};
    if constexpr (kBits == 3) {
      high = load_words(array.codes + size_t{array.reduction} * array.lanes / 4, block, array.lanes, first);
    }
    const uint32_t lows[4] = {low.x, low.y, low.z, low.w};
    const uint32_t highs[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t word = nibbles<kBits>(lows[t], highs[t], at.i);
      if constexpr (is_rotated(kId)) {
        look_up<kBits>(word, operands.b[t]);
      } else {
        operands.b[t][0] = word & 0x0F0F0F0FU;
        operands.b[t][1] = word >> 4 & 0x0F0F0F0FU;
      }
    }
    return operands;
  }
}

// What a uniform code's operand is short of the value's: value = (operand - centre) * scale + mid.
constexpr float key_centre(uint32_t bits) {
  const float centre = 0.5F * static_cast<float>((1U << bits) - 1);
  return bits == 8 ? centre - 128.0F : centre;
}
template <CodecId kId>
constexpr int value_centre() {
  return bits_of(kId) == 8 || has_levels(kId) ? 0 : 1 << (bits_of(kId) - 1);
}
// Levels and 8-bit codes have a sign, others have none.
template <CodecId kId>
using OperandSign = std::conditional_t<bits_of(kId) == 8 || has_levels(kId), SignedBytes, UnsignedBytes>;

// Eight integers of 16 bits as two operands of bytes each, the upper and the lower halves.
template <bool kLookedUp>
__device__ __forceinline__ void pack_halves(const uint32_t (&v)[8], uint32_t (&upper)[2],
                                            uint32_t (&lower)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint32_t x = __byte_perm(v[pack_order<kLookedUp>(r, 0)], v[pack_order<kLookedUp>(r, 1)], 0x5140U);
    const uint32_t y = __byte_perm(v[pack_order<kLookedUp>(r, 2)], v[pack_order<kLookedUp>(r, 3)], 0x5140U);
    lower[r] = __byte_perm(x, y, 0x5410U);
    upper[r] = __byte_perm(x, y, 0x7632U);
  }
}

// round(x * inverse) + kMore, within +-2^21, in the lower bits of a word: kRoundingBits less than its bits.
inline constexpr uint32_t kRoundingBits = 0x4B400000U;  // 1.5 * 2^23
template <int kMore = 0>
__device__ __forceinline__ uint32_t rounded_bits(float x, float inverse) {
  return __float_as_uint(x * inverse + (12582912.0F + kMore));
}

__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}
template <typename T>
__device__ __forceinline__ T quad_sum(T value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

// A pair of f32 as two pairs of bf16 whose sum is within 2^-16 of it.
struct SplitPair {
  uint32_t high;
  uint32_t low;
};
__device__ __forceinline__ SplitPair split_pair(float x, float y) {
  const auto pack = [](float a, float b) {
    return uint32_t{__bfloat16_as_ushort(__float2bfloat16_rn(a))} |
           uint32_t{__bfloat16_as_ushort(__float2bfloat16_rn(b))} << 16;
  };
  const uint32_t high = pack(x, y);
  return {high, pack(x - bf16_bits_to_float(high & 0xFFFFU), y - bf16_bits_to_float(high >> 16))};
}

}  // namespace quire::cuda
