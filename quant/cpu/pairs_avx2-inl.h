// Numbers of 16 bits as pairs, in the order in which AVX2 has quads: elements 0 and 2, then 1 and 3. Thread
// safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Sixteen elements from `first` on as the pairs of four quads. |v| < 2^15.
HWY_INLINE void store_pairs(Ints v, int32_t* operands, uint32_t first, uint32_t quads) {
  // In each half: elements 0..3 of one part, then of the other.
  const __m256i packed = _mm256_packs_epi32(v.part[0].raw, v.part[1].raw);
  const __m256i by_pair =
      _mm256_shuffle_epi8(packed, _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                                   0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  const __m256i in_order = _mm256_permutevar8x32_epi32(by_pair, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  int32_t* at = operands + first / 4;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm256_castsi256_si128(in_order));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at + quads), _mm256_extracti128_si256(in_order, 1));
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
