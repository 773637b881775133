// A block of query rows: what is known of each row, one lane per row, and how sixteen lanes of each row are
// reduced to that lane.
//
// Lanes at and above the number of rows hold copies or junk and are never read back. Reductions have the
// same tree for every row, so a row's bits do not depend on its place in the block. Thread safety: pure
// functions.
#pragma once

#include "quant/cpu/exp2-inl.h"
#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

using PerRow = float[kLanes];

// Lives in the caller's scratch for the length of one call.
struct alignas(64) RowBlock {
  PerRow m;  // the state of AttendState
  PerRow l;
  PerRow score_scale;  // score = score_scale * key sum + score_offset, in log2 units
  PerRow score_offset;
  PerRow weight_top;    // integers of weights: 2^(score - m) * token scale * weight_top
  PerRow weight_scale;  // o += weight_scale * value sum + offset_weight * value_offset
  PerRow offset_weight;
  PerRow query_scale;            // q = query_scale * its integers
  int32_t query_offset[kLanes];  // -128 * the sum of its integers
  int32_t begin[kLanes];         // visible tokens of a masked section
  int32_t end[kLanes];
  int32_t* query;  // operands of the key product: [rows][2][dim / 4]
  uint32_t first;  // row of the tile
  uint32_t rows;
};

// Eight vectors of eight lanes to eight lanes: lane i of the result is `op` over the lanes of v[i].
template <int kRows, class Vector, class Combine>
HWY_INLINE Vector reduce_eight(const Vector (&v)[kRows], Combine combine) {
  Vector pair[4];
  Vector quad[2];
  for (int i = 0; i < 4; ++i) pair[i] = combine.neighbours(v[2 * i % kRows], v[(2 * i + 1) % kRows]);
  for (int i = 0; i < 2; ++i) quad[i] = combine.pairs(pair[2 * i], pair[2 * i + 1]);
  return combine.halves(quad[0], quad[1]);
}

template <class Op>
struct CombineFloats {
  HWY_INLINE static __m256 op(__m256 a, __m256 b) { return Op::apply(a, b); }
  HWY_INLINE static __m256 neighbours(__m256 a, __m256 b) {
    return op(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  }
  HWY_INLINE static __m256 pairs(__m256 a, __m256 b) {
    const __m256d c = _mm256_castps_pd(a);
    const __m256d d = _mm256_castps_pd(b);
    return op(_mm256_castpd_ps(_mm256_unpacklo_pd(c, d)), _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)));
  }
  HWY_INLINE static __m256 halves(__m256 a, __m256 b) {
    return op(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
};
struct CombineInts {
  HWY_INLINE static __m256i neighbours(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  }
  HWY_INLINE static __m256i pairs(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  }
  HWY_INLINE static __m256i halves(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
  }
};
struct AddOp {
  HWY_INLINE static __m256 apply(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
};
struct MaxOp {
  HWY_INLINE static __m256 apply(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
};

// Eight lanes to sixteen; the upper ones are zero.
HWY_INLINE Floats widen_rows(__m256 rows) {
#if defined(QUIRE_SIMD_AVX512)
  return Floats{{hn::Vec<FloatTag>{_mm512_zextps256_ps512(rows)}}};
#else
  return Floats{{hn::Vec<FloatTag>{rows}, hn::Zero(FloatTag())}};
#endif
}
HWY_INLINE Ints widen_rows(__m256i rows) {
#if defined(QUIRE_SIMD_AVX512)
  return Ints{{hn::Vec<IntTag>{_mm512_zextsi256_si512(rows)}}};
#else
  return Ints{{hn::Vec<IntTag>{rows}, hn::Zero(IntTag())}};
#endif
}

template <class Op>
HWY_INLINE __m256 fold(Floats v) {
#if defined(QUIRE_SIMD_AVX512)
  return Op::apply(_mm512_castps512_ps256(v.part[0].raw), _mm512_extractf32x8_ps(v.part[0].raw, 1));
#else
  return Op::apply(v.part[0].raw, v.part[1].raw);
#endif
}

// Lane i is the sum or maximum of the sixteen lanes of v[i].
template <class Op, int kRows>
HWY_INLINE Floats reduce_rows(const Floats (&v)[kRows]) {
  __m256 folded[kRows];
  for (int i = 0; i < kRows; ++i) folded[i] = fold<Op>(v[i]);
  return widen_rows(reduce_eight<kRows>(folded, CombineFloats<Op>()));
}
template <int kRows>
HWY_INLINE Ints sum_rows(const __m256i (&v)[kRows]) {
  return widen_rows(reduce_eight<kRows>(v, CombineInts()));
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
