// Dot-quads with AVX-VNNI: vpdpbusd on 256 bits, for processors that have it and no AVX-512. Bytes need not
// be widened, so a dot takes a third of AVX2's instructions. Operands, bounds and the offset of keys are
// those of quads_avx512-inl.h, and so are all sums. Thread safety: pure functions.
#pragma once

#include "quant/codec.h"
#include "quant/cpu/form-inl.h"
#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kMaxBlockRows = 4;  // more would not fit in sixteen registers
inline constexpr uint32_t kSumRegisters = 8;
inline constexpr uint32_t kLeastColumns = 1;  // looking up codes costs more than loads
inline constexpr int32_t kKeyBias = 128;      // added to the levels of keys
inline constexpr float kQueryTop = 32512.0F;
inline constexpr int32_t kQueryBias = 32768 + 128;  // added to integers of queries for store_query

// Bytes of levels by code; a plain form uses the first sixteen.
struct LevelBytes {
  alignas(64) uint8_t bytes[64];
};

// Sixteen lanes of a quad, four bytes each. Keys are unsigned (128 added), values signed.
struct Levels {
  __m256i bytes[2];
};

template <Side kSide>
HWY_INLINE Levels levels_of(const __m256i (&bytes)[2]) {
  return {{bytes[0], bytes[1]}};
}

// Element kIndex of each quad of key levels, 128 added.
template <uint32_t kIndex>
HWY_INLINE Ints key_level(const Levels& levels) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    const __m256i shifted = _mm256_srli_epi32(levels.bytes[i], 8 * kIndex);
    out.part[i].raw = _mm256_and_si256(shifted, _mm256_set1_epi32(0xFF));
  }
  return out;
}

// How one side's broadcast operand (query or weights) is held: kParts arrays of quads, each quad a dword.
// Queries have 16 bits, weights 8, or 16 where kPrecise.
template <Side kSide, bool kPrecise>
struct Product {
  static constexpr uint32_t kParts = kSide == Side::kKey || kPrecise ? 2 : 1;
  // The largest weight is known within 0.2 %: two parts leave room above it, one saturates.
  static constexpr float kWeightTop = kParts == 2 ? 65280.0F : 255.0F;

  struct Operand {
    __m256i part[kParts];
  };
  struct Sum {
    __m256i part[kParts][2];
  };

  HWY_INLINE static Operand broadcast(const int32_t* operands, uint32_t quad, uint32_t quads) {
    Operand operand;
    for (uint32_t i = 0; i < kParts; ++i) operand.part[i] = _mm256_set1_epi32(operands[i * quads + quad]);
    return operand;
  }
  HWY_INLINE static Sum start(int32_t offset) {
    Sum sum;
    for (uint32_t i = 0; i < kParts; ++i) {
      for (__m256i& half : sum.part[i]) {
        half = i == kParts - 1 ? _mm256_set1_epi32(offset) : _mm256_setzero_si256();
      }
    }
    return sum;
  }
  // As assembly for the reason that quads_avx512-inl.h states; {vex}, because assemblers prefer AVX-512's
  // encoding.
  HWY_INLINE static void add(Sum& sum, const Levels& levels, const Operand& operand) {
    for (uint32_t i = 0; i < kParts; ++i) {
      for (int half = 0; half < 2; ++half) {
        __m256i& to = sum.part[i][half];
        if constexpr (kSide == Side::kKey) {
          asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(to) : "x"(levels.bytes[half]), "x"(operand.part[i]));
        } else {
          asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(to) : "x"(operand.part[i]), "x"(levels.bytes[half]));
        }
      }
    }
  }
  HWY_INLINE static Ints total(const Sum& sum) {
    Ints out;
    for (int half = 0; half < 2; ++half) {
      out.part[half].raw = sum.part[0][half];
      if constexpr (kParts == 2) {
        out.part[half].raw = _mm256_add_epi32(_mm256_slli_epi32(sum.part[0][half], 8), sum.part[1][half]);
      }
    }
    return out;
  }
};

// Bytes 0 and 1 of sixteen dwords, 0 <= dword < 2^16: `low`, then `high`.
struct TwoBytes {
  __m128i low;
  __m128i high;
};
HWY_INLINE TwoBytes split_bytes(Ints v) {
  // In each half of eight lanes: four dwords of a part, then of the other, low bytes first.
  const __m256i words = _mm256_packus_epi32(v.part[0].raw, v.part[1].raw);
  const __m256i by_byte =
      _mm256_shuffle_epi8(words, _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,  //
                                                  0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  const __m256i in_order = _mm256_permutevar8x32_epi32(by_byte, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return {_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)};
}

// 32 elements from `first` on of a query, q + kQueryBias of |q| <= kQueryTop, as operands q = 256 high + low.
HWY_INLINE void store_query(Ints left, Ints right, int32_t* operands, uint32_t first, uint32_t quads) {
  uint8_t* high = reinterpret_cast<uint8_t*>(operands) + first;
  // Of q + 2^15 + 128, which is positive, the upper byte is `high` + 128, rounded, and the lower one `low` +
  // 128.
  const Ints both[2] = {left, right};
  const __m128i sign = _mm_set1_epi8(-128);
  for (uint32_t i = 0; i < 2; ++i) {
    const TwoBytes bytes = split_bytes(both[i]);
    __m128i* at = reinterpret_cast<__m128i*>(high + i * kLanes);
    _mm_storeu_si128(at, _mm_xor_si128(bytes.high, sign));
    __m128i* low = reinterpret_cast<__m128i*>(high + i * kLanes + size_t{4} * quads);
    _mm_storeu_si128(low, _mm_xor_si128(bytes.low, sign));
  }
}
// Sixteen elements from `first` on of weights, 0..kWeightTop or a little above it, where a maximum was not
// exact.
template <bool kPrecise>
HWY_INLINE void store_weights(Ints weights, int32_t* operands, uint32_t first, uint32_t quads) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(operands) + first;
  if constexpr (kPrecise) {
    const TwoBytes both = split_bytes(weights);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), both.high);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + size_t{4} * quads), both.low);
  } else {
    const __m256i words = _mm256_packus_epi32(weights.part[0].raw, weights.part[1].raw);
    const __m256i in_order = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(bytes),
        _mm_packus_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));
  }
}

// sum of q * (mean code + 128) over a row's channels, left in eight partial sums.
HWY_INLINE PartialSums query_dot_means(const int32_t* operands, const uint8_t* mean_codes, uint32_t quads) {
  __m256i high = _mm256_setzero_si256();
  __m256i low = _mm256_setzero_si256();
  for (uint32_t quad = 0; quad < quads; quad += 8) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mean_codes + size_t{4} * quad));
    const __m256i means = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const int32_t* at = operands + quad;
    high = _mm256_dpbusd_avx_epi32(high, means, _mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
    low =
        _mm256_dpbusd_avx_epi32(low, means, _mm256_load_si256(reinterpret_cast<const __m256i*>(at + quads)));
  }
  return _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
