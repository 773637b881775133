// What sixteen lanes need instructions of x86 for: rounding to integers, narrowing, table lookups, and
// reductions of up to eight rows together. native_neon-inl.h has the same functions.
//
// Reductions have the same tree for every row, so a row's bits do not depend on its place in a block. Thread
// safety: pure functions.
#pragma once

#include "quant/cpu/vectors-inl.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Ties to even. |a| < 2^31: Highway's NearestInt would spend instructions on larger values.
HWY_INLINE Ints to_ints(Floats a) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
#if defined(QUIRE_SIMD_AVX512)
    out.part[i].raw = _mm512_cvtps_epi32(a.part[i].raw);
#else
    out.part[i].raw = _mm256_cvtps_epi32(a.part[i].raw);
#endif
  }
  return out;
}

// The low byte of each lane.
HWY_INLINE void store_low_bytes(Ints v, uint8_t* to) {
#if defined(QUIRE_SIMD_AVX512)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v.part[0].raw));
#else
  const hn::Rebind<uint8_t, FloatTag> bytes;
  for (uint32_t i = 0; i < kParts; ++i) {
    hn::StoreU(hn::TruncateTo(bytes, hn::BitCast(hn::RebindToUnsigned<IntTag>(), v.part[i])), bytes,
               to + i * kPartLanes);
  }
#endif
}

// table[index mod 16], 16 entries.
HWY_INLINE Floats lookup(const float* table, Ints index) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) {
#if defined(QUIRE_SIMD_AVX512)
    out.part[i].raw = _mm512_permutexvar_ps(index.part[i].raw, _mm512_loadu_ps(table));
#else
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index.part[i].raw);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index.part[i].raw);
    // Bit 3 of the index chooses the half; blendv looks at the sign bit.
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index.part[i].raw, 28));
    out.part[i].raw = _mm256_blendv_ps(low, high, upper);
#endif
  }
  return out;
}

// level^2 - 2 * level * y in units of 2^-bits: both products come from one multiplication of pairs, whose
// pairs are (y, 2^bits) and (-2^(bits + 1) * level, level^2).
struct LevelCost {
  int32_t pair;
};
constexpr LevelCost level_cost(int32_t level, uint32_t bits) {
  const int32_t slope = -level * (1 << (bits + 1));
  return {static_cast<int32_t>(static_cast<uint32_t>(slope) & 0xFFFFU) | (level * level) << 16};
}
// |y| < 2^15.
template <uint32_t kBits>
HWY_INLINE Ints target_of(Ints y) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    const auto low = hn::And(y.part[i], hn::Set(IntTag(), 0xFFFF));
    out.part[i] = hn::Or(low, hn::Set(IntTag(), 1 << (16 + kBits)));
  }
  return out;
}
template <uint32_t kBits>
HWY_INLINE Ints add_cost(Ints cost, Ints target, const LevelCost& level) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
#if defined(QUIRE_SIMD_AVX512)
    const __m512i product = _mm512_madd_epi16(target.part[i].raw, _mm512_set1_epi32(level.pair));
    out.part[i].raw = _mm512_add_epi32(cost.part[i].raw, product);
#else
    const __m256i product = _mm256_madd_epi16(target.part[i].raw, _mm256_set1_epi32(level.pair));
    out.part[i].raw = _mm256_add_epi32(cost.part[i].raw, product);
#endif
  }
  return out;
}

// Levels of a trellis by index, with their sign.
struct LevelLookup {
#if defined(QUIRE_SIMD_AVX512)
  __m512i table;
  HWY_INLINE explicit LevelLookup(const TrellisLevels& levels) : table(_mm512_loadu_si512(levels.data())) {}
  HWY_INLINE Ints of(Ints index) const {
    const __m512i bytes = _mm512_permutexvar_epi8(index.part[0].raw, table);
    return Ints{{hn::Vec<IntTag>{_mm512_srai_epi32(_mm512_slli_epi32(bytes, 24), 24)}}};
  }
#else
  int32_t table[kTrellisLevels];
  HWY_INLINE explicit LevelLookup(const TrellisLevels& levels) {
    for (uint32_t i = 0; i < kTrellisLevels; ++i) table[i] = levels[i];
  }
  HWY_INLINE Ints of(Ints index) const {
    Ints out;
    for (uint32_t i = 0; i < kParts; ++i) {
      out.part[i].raw = _mm256_i32gather_epi32(table, index.part[i].raw, sizeof(int32_t));
    }
    return out;
  }
#endif
};

// from[index] of `count` entries, a multiple of 32. With AVX-512 two registers at a time are permuted and
// kept where the index falls into them: a gather takes five times as long on Zen 4.
HWY_INLINE Floats pick(const float* from, uint32_t count, Ints index) {
  Floats out;
#if defined(QUIRE_SIMD_AVX512)
  const __m512i in_pair = index.part[0].raw;
  const __m512i pair = _mm512_srli_epi32(in_pair, 5);
  out.part[0].raw = _mm512_permutex2var_ps(_mm512_loadu_ps(from), in_pair, _mm512_loadu_ps(from + 16));
#pragma GCC unroll 8
  for (uint32_t i = 32; i < count; i += 32) {
    const __m512 picked =
        _mm512_permutex2var_ps(_mm512_loadu_ps(from + i), in_pair, _mm512_loadu_ps(from + i + 16));
    const __mmask16 here = _mm512_cmpeq_epi32_mask(pair, _mm512_set1_epi32(static_cast<int32_t>(i / 32)));
    out.part[0].raw = _mm512_mask_mov_ps(out.part[0].raw, here, picked);
  }
#else
  (void)count;
  for (uint32_t i = 0; i < kParts; ++i) {
    out.part[i].raw = _mm256_i32gather_ps(from, index.part[i].raw, sizeof(float));
  }
#endif
  return out;
}

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

// Sums of integers on their way to one lane per row.
using PartialSums = __m256i;
HWY_INLINE PartialSums fold_sum(Ints v) {
#if defined(QUIRE_SIMD_AVX512)
  return _mm256_add_epi32(_mm512_castsi512_si256(v.part[0].raw), _mm512_extracti64x4_epi64(v.part[0].raw, 1));
#else
  return _mm256_add_epi32(v.part[0].raw, v.part[1].raw);
#endif
}
template <int kRows>
HWY_INLINE Ints sum_rows(const PartialSums (&v)[kRows]) {
  return widen_rows(reduce_eight<kRows>(v, CombineInts()));
}

// The sum of sixteen partial sums, in FORMATS.md's order.
HWY_INLINE float sum16(Floats p) {
  const __m256 eight = fold<AddOp>(p);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
