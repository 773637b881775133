// Dot-quads with AVX2: bytes are widened to 16 bits and multiplied in pairs (pmaddwd).
//
// The byte product of AVX2 (maddubs) saturates at 16 bits and would need the query in parts of 7 bits; pairs
// of 16 bits are exact, take the whole 16-bit query and 15-bit weights at once, and cost about as much once
// the sums of maddubs are widened. A quad (0, 1, 2, 3) is held as the pairs (0, 2) and (1, 3), because that
// is what masking and shifting a lane of four bytes gives. Bounds and the offset of keys are as in
// quads_avx512-inl.h. Thread safety: pure functions.
#pragma once

#include "quant/codec.h"
#include "quant/cpu/form-inl.h"
#include "quant/cpu/lanes-inl.h"
#include "quant/cpu/pairs_avx2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kMaxBlockRows = 4;  // more would not fit in sixteen registers
inline constexpr uint32_t kSumRegisters = 8;
inline constexpr uint32_t kLeastColumns = 1;  // widening codes costs more than loads
inline constexpr int32_t kKeyBias = 128;      // added to the levels of keys
inline constexpr float kQueryTop = 32512.0F;
inline constexpr int32_t kQueryBias = 0;  // added to integers of queries for store_query

// Bytes of levels by code; a plain form uses the first sixteen.
struct LevelBytes {
  alignas(64) uint8_t bytes[64];
};

// Sixteen lanes of a quad: the pairs (0, 2) and (1, 3) as 16-bit numbers.
struct Levels {
  __m256i even[2];
  __m256i odd[2];
};

// Keys are unsigned (128 added), values signed.
template <Side kSide>
HWY_INLINE Levels levels_of(const __m256i (&bytes)[2]) {
  Levels levels;
  for (int i = 0; i < 2; ++i) {
    if constexpr (kSide == Side::kKey) {
      levels.even[i] = _mm256_and_si256(bytes[i], _mm256_set1_epi16(0xFF));
      levels.odd[i] = _mm256_srli_epi16(bytes[i], 8);
    } else {
      levels.even[i] = _mm256_srai_epi16(_mm256_slli_epi16(bytes[i], 8), 8);
      levels.odd[i] = _mm256_srai_epi16(bytes[i], 8);
    }
  }
  return levels;
}

// Element kIndex of each quad of key levels, 128 added.
template <uint32_t kIndex>
HWY_INLINE Ints key_level(const Levels& levels) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    const __m256i pair = kIndex % 2 == 0 ? levels.even[i] : levels.odd[i];
    out.part[i].raw =
        kIndex < 2 ? _mm256_and_si256(pair, _mm256_set1_epi32(0xFFFF)) : _mm256_srli_epi32(pair, 16);
  }
  return out;
}

// Queries and weights are held alike: an array of even pairs, then one of odd pairs, a dword for each quad.
// Precise or not, weights have 15 bits.
template <Side kSide, bool kPrecise>
struct Product {
  static constexpr uint32_t kParts = 2;
  static constexpr float kWeightTop = 32640.0F;  // the largest is known within 0.2 %

  struct Operand {
    __m256i even;
    __m256i odd;
  };
  struct Sum {
    __m256i part[2];
  };

  HWY_INLINE static Operand broadcast(const int32_t* operands, uint32_t quad, uint32_t quads) {
    return {_mm256_set1_epi32(operands[quad]), _mm256_set1_epi32(operands[quads + quad])};
  }
  HWY_INLINE static Sum start(int32_t offset) {
    return {{_mm256_set1_epi32(offset), _mm256_set1_epi32(offset)}};
  }
  HWY_INLINE static void add(Sum& sum, const Levels& levels, const Operand& operand) {
    for (int i = 0; i < 2; ++i) {
      sum.part[i] = _mm256_add_epi32(sum.part[i], _mm256_madd_epi16(levels.even[i], operand.even));
      sum.part[i] = _mm256_add_epi32(sum.part[i], _mm256_madd_epi16(levels.odd[i], operand.odd));
    }
  }
  HWY_INLINE static Ints total(const Sum& sum) {
    return Ints{{hn::Vec<IntTag>{sum.part[0]}, hn::Vec<IntTag>{sum.part[1]}}};
  }
};

HWY_INLINE void store_query(Ints low, Ints high, int32_t* operands, uint32_t first, uint32_t quads) {
  store_pairs(low, operands, first, quads);
  store_pairs(high, operands, first + kLanes, quads);
}
template <bool kPrecise>
HWY_INLINE void store_weights(Ints weights, int32_t* operands, uint32_t first, uint32_t quads) {
  store_pairs(weights, operands, first, quads);
}

// sum of q * (mean code + 128) over a row's channels, left in eight partial sums.
HWY_INLINE PartialSums query_dot_means(const int32_t* operands, const uint8_t* mean_codes, uint32_t quads) {
  __m256i sum = _mm256_setzero_si256();
  for (uint32_t quad = 0; quad < quads; quad += 8) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mean_codes + size_t{4} * quad));
    const __m256i means = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const int32_t* at = operands + quad;
    const __m256i even = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
    const __m256i odd = _mm256_load_si256(reinterpret_cast<const __m256i*>(at + quads));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(means, _mm256_set1_epi16(0xFF)), even));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(means, 8), odd));
  }
  return sum;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
