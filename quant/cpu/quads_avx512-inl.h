// Dot-quads with AVX-512 VNNI: one instruction multiplies four unsigned with four signed bytes in each of
// sixteen lanes and adds the products to 32 bits, without saturation.
//
// Keys: levels are stored with 128 added (unsigned), the query is signed, 16 bits in two bytes
// q = 256 high + low; the sum starts at -128 * sum(q) to take the 128 away. Values: levels are signed,
// weights are unsigned, in one byte or two. Every sum is exact: |sum| <= 128 * 32512 * 256 < 2^31. Thread
// safety: pure functions.
#pragma once

#include <array>

#include "quant/codec.h"
#include "quant/cpu/form-inl.h"
#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kMaxBlockRows = 8;
inline constexpr uint32_t kSumRegisters = 16;  // of 32; the others hold codes, levels and operands
inline constexpr uint32_t kLeastColumns = 2;
inline constexpr int32_t kKeyBias = 128;      // added to the levels of keys
inline constexpr float kQueryTop = 32512.0F;  // 127 * 256: the high byte stays within a signed byte
inline constexpr int32_t kQueryBias = 128;    // added to integers of queries for store_query

// Bytes of levels by code: entry i stands wherever index mod (number of levels) = i, so that whatever lies
// in the bits above a field does not matter.
struct LevelBytes {
  alignas(64) uint8_t bytes[64];
};

// Levels of four neighbouring elements of the reduction axis, in sixteen lanes.
using Levels = __m512i;

// The codes of kQuads quads in sixteen lanes, as loaded.
template <Side kSide, Form kForm>
struct Codes {
  static constexpr uint32_t kBits = kForm.bits;
  static constexpr uint32_t kQuads = 8 / kBits;
  __m512i bytes;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    return {_mm512_load_si512(codes + (size_t{step} * lanes + lane) * 4)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    _mm_prefetch(codes + (size_t{step} * lanes + lane) * 4, _MM_HINT_T1);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(__m512i table) const {
    if constexpr (kBits == 8) {
      if constexpr (kSide == Side::kKey) return bytes;
      return _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
    } else {
      return _mm512_permutexvar_epi8(_mm512_srli_epi16(bytes, kField * kBits), table);
    }
  }
};

// Two planes: two vectors of two-bit fields and one of single bits serve eight quads.
template <Side kSide>
struct Codes<kSide, Form{3}> {
  static constexpr uint32_t kQuads = 8;
  __m512i low[2];
  __m512i high;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    return {{_mm512_load_si512(codes + (size_t{2 * step} * lanes + lane) * 4),
             _mm512_load_si512(codes + (size_t{2 * step + 1} * lanes + lane) * 4)},
            _mm512_load_si512(high_plane + (size_t{step} * lanes + lane) * 4)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    _mm_prefetch(codes + (size_t{2 * step} * lanes + lane) * 4, _MM_HINT_T1);
    _mm_prefetch(codes + (size_t{2 * step + 1} * lanes + lane) * 4, _MM_HINT_T1);
    _mm_prefetch(high_plane + (size_t{step} * lanes + lane) * 4, _MM_HINT_T1);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(__m512i table) const {
    const __m512i two = _mm512_srli_epi16(low[kField / 4], kField % 4 * 2);
    __m512i one = high;  // its bit kField to bit 2
    if constexpr (kField > 2) one = _mm512_srli_epi16(high, kField - 2);
    if constexpr (kField < 2) one = _mm512_slli_epi16(high, 2 - kField);
    constexpr int kFirstWhereThird = 0xCA;  // third ? first : second, by bit
    const __m512i index = _mm512_ternarylogic_epi64(_mm512_set1_epi8(3), two, one, kFirstWhereThird);
    return _mm512_permutexvar_epi8(index, table);
  }
};

// Of each lane, the two low bytes of both to `a` and the two high ones to `b`.
HWY_INLINE void exchange_words(__m512i& a, __m512i& b) {
  alignas(64) static constexpr std::array<uint16_t, 64> kLowAndHigh = [] {
    std::array<uint16_t, 64> index{};
    for (uint16_t i = 0; i < 64; ++i) index[i] = static_cast<uint16_t>(i % 32 / 2 * 2 + i % 2 * 32 + i / 32);
    return index;
  }();
  const __m512i low = _mm512_permutex2var_epi16(a, _mm512_load_si512(kLowAndHigh.data()), b);
  b = _mm512_permutex2var_epi16(a, _mm512_load_si512(kLowAndHigh.data() + 32), b);
  a = low;
}
template <class Step>
HWY_INLINE void exchange_step_words(Step& a, Step& b) {
  if constexpr (Step::kQuads == 8) {  // 3 bits
    exchange_words(a.low[0], b.low[0]);
    exchange_words(a.low[1], b.low[1]);
    exchange_words(a.high, b.high);
  } else {
    exchange_words(a.bytes, b.bytes);
  }
}

// What chains go on from: the bytes before those of `step`. Before the first stand the last, each of the
// lane's next byte (FORMATS.md, "Trellis codecs").
HWY_INLINE __m512i load_before(const uint8_t* plane, uint32_t step, uint32_t steps, uint32_t lane,
                               uint32_t lanes) {
  const uint8_t* at = plane + (size_t{step == 0 ? steps - 1 : step - 1} * lanes + lane) * 4;
  return _mm512_rolv_epi32(_mm512_load_si512(at), _mm512_set1_epi32(step == 0 ? 8 : 0));
}

// By bit: `first` where `mask` has ones, else `second`.
template <int kMask>
HWY_INLINE __m512i join(__m512i first, __m512i second) {
  constexpr int kFirstWhereThird = 0xCA;
  return _mm512_ternarylogic_epi64(_mm512_set1_epi8(static_cast<char>(kMask)), first, second,
                                   kFirstWhereThird);
}

// Bits kFrom.. of each byte moved to bit 0 (upwards where kFrom is negative); what surrounds them is junk.
template <int kFrom>
HWY_INLINE __m512i move_field(__m512i bytes) {
  if constexpr (kFrom > 0) return _mm512_srli_epi16(bytes, kFrom);
  if constexpr (kFrom < 0) return _mm512_slli_epi16(bytes, -kFrom);
  return bytes;
}

// The window that ends with the kField-th code of kBits in `bytes`, from bit 0 on; above it is junk.
template <uint32_t kBits, uint32_t kWindow, uint32_t kField>
HWY_INLINE __m512i window(__m512i bytes, __m512i before) {
  constexpr int kFrom = static_cast<int>((kField + 1) * kBits) - static_cast<int>(kWindow);
  if constexpr (kFrom >= 0)
    return move_field<kFrom>(bytes);
  else
    return join<(1 << -kFrom) - 1>(move_field<8 + kFrom>(before), move_field<kFrom>(bytes));
}

// Along a trellis. The lookup takes six bits of an index: what lies above does not matter.
template <Side kSide, Form kForm>
requires(kForm.trellis) struct Codes<kSide, kForm> {
  static constexpr uint32_t kQuads = 8 / kForm.bits;
  __m512i bytes;
  __m512i before;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t steps, uint32_t lane, uint32_t lanes) {
    return {_mm512_load_si512(codes + (size_t{step} * lanes + lane) * 4),
            load_before(codes, step, steps, lane, lanes)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    _mm_prefetch(codes + (size_t{step} * lanes + lane) * 4, _MM_HINT_T1);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(__m512i table) const {
    return _mm512_permutexvar_epi8(window<kForm.bits, 6, kField>(bytes, before), table);
  }
};

// Of 3 bits the window slides over the plane of single bits.
template <Side kSide>
struct Codes<kSide, Form{3, true}> {
  static constexpr uint32_t kQuads = 8;
  Codes<kSide, Form{3}> plain;
  __m512i before;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* high_plane, uint32_t step, uint32_t steps,
                               uint32_t lane, uint32_t lanes) {
    return {Codes<kSide, Form{3}>::load(codes, high_plane, step, steps, lane, lanes),
            load_before(high_plane, step, steps, lane, lanes)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    Codes<kSide, Form{3}>::prefetch(codes, high_plane, step, lane, lanes);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(__m512i table) const {
    constexpr int kRest = static_cast<int>(kField % 4 * 2) - 4;  // to bits 4 and 5
    const __m512i index =
        join<0x0F>(window<1, 4, kField>(plain.high, before), move_field<kRest>(plain.low[kField / 4]));
    return _mm512_permutexvar_epi8(index, table);
  }
};

// Byte kIndex of each lane of key levels, 128 added.
template <uint32_t kIndex>
HWY_INLINE Ints key_level(Levels levels) {
  const __m512i shifted = _mm512_srli_epi32(levels, 8 * kIndex);
  return Ints{{hn::Vec<IntTag>{_mm512_and_si512(shifted, _mm512_set1_epi32(0xFF))}}};
}

template <Form>
HWY_INLINE __m512i load_table(const LevelBytes& table) {
  return _mm512_load_si512(table.bytes);
}

// How one side's broadcast operand (query or weights) is held: kParts arrays of quads, each quad a dword.
// Queries have 16 bits, weights 8, or 16 where kPrecise.
template <Side kSide, bool kPrecise>
struct Product {
  static constexpr uint32_t kParts = kSide == Side::kKey || kPrecise ? 2 : 1;
  // The largest weight is known within 0.2 %: two parts leave room above it, one saturates.
  static constexpr float kWeightTop = kParts == 2 ? 65280.0F : 255.0F;

  struct Operand {
    __m512i part[kParts];
  };
  struct Sum {
    __m512i part[kParts];
  };

  HWY_INLINE static Operand broadcast(const int32_t* operands, uint32_t quad, uint32_t quads) {
    Operand operand;
    for (uint32_t i = 0; i < kParts; ++i) operand.part[i] = _mm512_set1_epi32(operands[i * quads + quad]);
    return operand;
  }
  HWY_INLINE static Sum start(int32_t offset) {
    Sum sum;
    for (uint32_t i = 0; i < kParts; ++i) sum.part[i] = _mm512_setzero_si512();
    sum.part[kParts - 1] = _mm512_set1_epi32(offset);
    return sum;
  }
  // As assembly, because the register of the sum is both read and written: given the intrinsic, GCC 12 copies
  // each sum twice per step and spills some.
  HWY_INLINE static void add(Sum& sum, Levels levels, const Operand& operand) {
    for (uint32_t i = 0; i < kParts; ++i) {
      if constexpr (kSide == Side::kKey) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum.part[i]) : "v"(levels), "v"(operand.part[i]));
      } else {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum.part[i]) : "v"(operand.part[i]), "v"(levels));
      }
    }
  }
  HWY_INLINE static Ints total(const Sum& sum) {
    if constexpr (kParts == 1)
      return Ints{{hn::Vec<IntTag>{sum.part[0]}}};
    else
      return Ints{{hn::Vec<IntTag>{_mm512_add_epi32(_mm512_slli_epi32(sum.part[0], 8), sum.part[1])}}};
  }
};

// To bytes, those above 255 as 255.
HWY_INLINE void store_saturated_bytes(__m512i lanes, uint8_t* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(lanes));
}

// Byte 0 of 32 dwords, then byte 1 of them.
alignas(64) inline constexpr std::array<uint8_t, 64> kLowTwoBytes = [] {
  std::array<uint8_t, 64> index{};
  for (size_t i = 0; i < 64; ++i) index[i] = static_cast<uint8_t>(i % 32 * 4 + i / 32);
  return index;
}();

// 32 elements from `first` on of a query, q + kQueryBias of |q| <= kQueryTop, as operands q = 256 high + low.
HWY_INLINE void store_query(Ints left, Ints right, int32_t* operands, uint32_t first, uint32_t quads) {
  uint8_t* high = reinterpret_cast<uint8_t*>(operands) + first;
  // Of q + 128 the upper byte is `high`, rounded, and the lower one `low` + 128.
  const __m512i bytes =
      _mm512_permutex2var_epi8(left.part[0].raw, _mm512_load_si512(kLowTwoBytes.data()), right.part[0].raw);
  const __m256i low = _mm256_xor_si256(_mm512_castsi512_si256(bytes), _mm256_set1_epi8(-128));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_extracti64x4_epi64(bytes, 1));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + size_t{4} * quads), low);
}
// Sixteen elements from `first` on of weights, 0..kWeightTop or a little above it, where a maximum was not
// exact.
template <bool kPrecise>
HWY_INLINE void store_weights(Ints weights, int32_t* operands, uint32_t first, uint32_t quads) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(operands) + first;
  if constexpr (kPrecise) {
    store_saturated_bytes(_mm512_srli_epi32(weights.part[0].raw, 8), bytes);
    store_low_bytes(weights, bytes + size_t{4} * quads);
  } else {
    store_saturated_bytes(weights.part[0].raw, bytes);
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
    high = _mm256_dpbusd_epi32(high, means, _mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
    low = _mm256_dpbusd_epi32(low, means, _mm256_load_si256(reinterpret_cast<const __m256i*>(at + quads)));
  }
  return _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
