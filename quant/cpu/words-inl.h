// Two numbers of 16 bits in each of sixteen lanes: twice as many to an instruction as in f32, and codes
// become them without conversions. Thread safety: pure functions.
#pragma once

#include "quant/cpu/quad_dot-inl.h"
#if defined(QUIRE_SIMD_AVX2)
#include "quant/cpu/pairs_avx2-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

using WordTag = hn::Repartition<int16_t, IntTag>;

struct Words {
  hn::Vec<WordTag> part[kParts];
};

HWY_INLINE Words words_of(Ints pairs) {
  Words out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::BitCast(WordTag(), pairs.part[i]);
  return out;
}
HWY_INLINE Ints pairs_of(Words v) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::BitCast(IntTag(), v.part[i]);
  return out;
}
HWY_INLINE Words load_words(const int32_t* pairs) { return words_of(load(pairs)); }
HWY_INLINE void store(Words v, int32_t* pairs) { store(pairs_of(v), pairs); }
// Sums and differences are taken modulo 2^16.
HWY_INLINE Words operator+(Words a, Words b) {
  Words out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Add(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Words operator-(Words a, Words b) {
  Words out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Sub(a.part[i], b.part[i]);
  return out;
}
// a * b / 2^15, rounded.
HWY_INLINE Words operator*(Words a, Words b) {
  Words out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::MulFixedPoint15(a.part[i], b.part[i]);
  return out;
}

// The low 16 bits of each number: `low` first.
HWY_INLINE Ints pack_words(Ints low, Ints high) { return (low & splat(0xFFFF)) | shift_left(high, 16); }

// (a, b) of each lane becomes (b, a).
HWY_INLINE Words swap_lanes(Words x) {
  Words out;
  for (uint32_t i = 0; i < kParts; ++i) {
#if defined(QUIRE_SIMD_AVX512)
    out.part[i].raw = _mm512_rol_epi32(x.part[i].raw, 16);
#elif defined(QUIRE_SIMD_AVX2)
    const __m256i order =
        _mm256_set_epi64x(0x0D0C0F0E09080B0A, 0x0504070601000302, 0x0D0C0F0E09080B0A, 0x0504070601000302);
    out.part[i].raw = _mm256_shuffle_epi8(x.part[i].raw, order);
#else
    out.part[i].raw = vrev32q_s16(x.part[i].raw);
#endif
  }
  return out;
}

// sums += the products of each lane's two pairs.
HWY_INLINE void add_products(Ints& sums, Words a, Words b) {
  for (uint32_t i = 0; i < kParts; ++i) {
#if defined(QUIRE_SIMD_AVX512)
    // As assembly for the reason that Product::add states.
    asm("vpdpwssd %2, %1, %0" : "+v"(sums.part[i].raw) : "v"(a.part[i].raw), "v"(b.part[i].raw));
#elif defined(QUIRE_SIMD_AVX2)
    sums.part[i].raw = _mm256_add_epi32(sums.part[i].raw, _mm256_madd_epi16(a.part[i].raw, b.part[i].raw));
#else
    const int32x4_t low = vmull_s16(vget_low_s16(a.part[i].raw), vget_low_s16(b.part[i].raw));
    const int32x4_t high = vmull_high_s16(a.part[i].raw, b.part[i].raw);
    sums.part[i].raw = vaddq_s32(sums.part[i].raw, vpaddq_s32(low, high));
#endif
  }
}

// Elements kKind and kKind + 2 of each quad of signed levels, times 256.
template <uint32_t kKind>
HWY_INLINE Words level_words(const Levels& levels) {
  Words out;
#if defined(QUIRE_SIMD_AVX512)
  out.part[0].raw = kKind == 0 ? _mm512_slli_epi16(levels, 8)
                               : _mm512_and_si512(levels, _mm512_set1_epi16(static_cast<int16_t>(0xFF00)));
#elif defined(QUIRE_SIMD_AVX_VNNI)
  for (uint32_t i = 0; i < kParts; ++i) {
    out.part[i].raw =
        kKind == 0 ? _mm256_slli_epi16(levels.bytes[i], 8)
                   : _mm256_and_si256(levels.bytes[i], _mm256_set1_epi16(static_cast<int16_t>(0xFF00)));
  }
#elif defined(QUIRE_SIMD_AVX2)
  for (uint32_t i = 0; i < kParts; ++i)
    out.part[i].raw = _mm256_slli_epi16(kKind == 0 ? levels.even[i] : levels.odd[i], 8);
#else
  for (uint32_t i = 0; i < kParts; ++i) {
    const int16x8_t both = vreinterpretq_s16_s8(levels.part[i]);
    out.part[i].raw = kKind == 0 ? vshlq_n_s16(both, 8) : vandq_s16(both, vdupq_n_s16(-256));
  }
#endif
  return out;
}

// Four times the sums (kKind 0) or differences (kKind 1) of elements 0 and 1, 2 and 3 of each quad of key
// levels, which have kKeyBias added.
template <uint32_t kKind>
HWY_INLINE Words mixed_levels(const Levels& levels) {
  Words out;
#if defined(QUIRE_SIMD_AVX512)
  out.part[0].raw =
      _mm512_maddubs_epi16(levels, _mm512_set1_epi16(static_cast<int16_t>(kKind == 0 ? 0x0404 : 0xFC04)));
#elif defined(QUIRE_SIMD_AVX_VNNI)
  const __m256i factors = _mm256_set1_epi16(static_cast<int16_t>(kKind == 0 ? 0x0404 : 0xFC04));
  for (uint32_t i = 0; i < kParts; ++i) out.part[i].raw = _mm256_maddubs_epi16(levels.bytes[i], factors);
#elif defined(QUIRE_SIMD_AVX2)
  for (uint32_t i = 0; i < kParts; ++i) {
    const __m256i mixed = kKind == 0 ? _mm256_add_epi16(levels.even[i], levels.odd[i])
                                     : _mm256_sub_epi16(levels.even[i], levels.odd[i]);
    out.part[i].raw = _mm256_slli_epi16(mixed, 2);
  }
#else
  for (uint32_t i = 0; i < kParts; ++i) {
    const int16x8_t both = vreinterpretq_s16_s8(levels.part[i]);
    const int16x8_t even = vshrq_n_s16(vshlq_n_s16(both, 8), 8);
    const int16x8_t odd = vshrq_n_s16(both, 8);
    out.part[i].raw = vshlq_n_s16(kKind == 0 ? vaddq_s16(even, odd) : vsubq_s16(even, odd), 2);
  }
#endif
  return out;
}

// Of one quad in each half, in lanes of two: what mixed_levels gives for elements 0 and 1, and for 2 and 3.
struct MixedLevels {
  Words first;
  Words second;
};

// The codes of quads q (`a`) and of those half a token away (`b`), whose lanes are to be shared by channels c
// and c + dim / 2. With AVX-512 the bytes of codes are brought together, which serves all their fields.
template <class Step>
struct StepPair {
#if defined(QUIRE_SIMD_AVX512)
  Step low;   // elements 0 and 1 of both
  Step high;  // elements 2 and 3
  HWY_INLINE StepPair(const Step& a, const Step& b) : low(a), high(b) { exchange_step_words(low, high); }
  template <uint32_t kField, uint32_t kKind>
  HWY_INLINE MixedLevels mixed(__m512i table) const {
    return {mixed_levels<kKind>(low.template levels<kField>(table)),
            mixed_levels<kKind>(high.template levels<kField>(table))};
  }
#else
  Step a;
  Step b;
  HWY_INLINE StepPair(const Step& first, const Step& second) : a(first), b(second) {}
  template <uint32_t kField, uint32_t kKind, class Table>
  HWY_INLINE MixedLevels mixed(const Table& table) const {
    const Words x = mixed_levels<kKind>(a.template levels<kField>(table));
    const Words y = mixed_levels<kKind>(b.template levels<kField>(table));
    MixedLevels out;
    for (uint32_t i = 0; i < kParts; ++i) {
#if defined(QUIRE_SIMD_AVX2)
      out.first.part[i].raw = _mm256_blend_epi16(x.part[i].raw, _mm256_slli_epi32(y.part[i].raw, 16), 0xAA);
      out.second.part[i].raw = _mm256_blend_epi16(_mm256_srli_epi32(x.part[i].raw, 16), y.part[i].raw, 0xAA);
#else
      out.first.part[i].raw = vtrn1q_s16(x.part[i].raw, y.part[i].raw);
      out.second.part[i].raw = vtrn2q_s16(x.part[i].raw, y.part[i].raw);
#endif
    }
    return out;
  }
#endif
};

// 32 channels from `first` on, 16 bits each, as pairs: channels 0 and 2 of each quad at pairs[quad], 1 and 3
// at pairs[quads + quad].
HWY_INLINE void store_pairs_of_channels(Ints left, Ints right, int32_t* pairs, uint32_t first,
                                        uint32_t quads) {
#if defined(QUIRE_SIMD_AVX512)
  alignas(64) static constexpr std::array<uint16_t, 32> kByPair = [] {
    std::array<uint16_t, 32> index{};
    for (uint16_t i = 0; i < 32; ++i) {
      const int channel = i % 16 / 2 * 4 + i % 2 * 2 + i / 16;
      index[i] = static_cast<uint16_t>(2 * channel);  // the low half of its dword
    }
    return index;
  }();
  const __m512i words =
      _mm512_permutex2var_epi16(left.part[0].raw, _mm512_load_si512(kByPair.data()), right.part[0].raw);
  int32_t* at = pairs + first / 4;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm512_castsi512_si256(words));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + quads), _mm512_extracti64x4_epi64(words, 1));
#elif defined(QUIRE_SIMD_AVX2)
  store_pairs(left, pairs, first, quads);
  store_pairs(right, pairs, first + kLanes, quads);
#else
  for (uint32_t i = 0; i < 2 * kParts; ++i) {
    const Ints& side = i < kParts ? left : right;
    const int16x4_t quad = vmovn_s32(side.part[i % kParts].raw);
    int32_t* at = pairs + first / 4 + i;
    vst1_lane_s32(at, vreinterpret_s32_s16(vuzp1_s16(quad, quad)), 0);
    vst1_lane_s32(at + quads, vreinterpret_s32_s16(vuzp2_s16(quad, quad)), 0);
  }
#endif
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
