// Codes to levels with registers of 256 bits: byte lookups in sixteen entries. What levels are multiplied by,
// and how they are held, differs between AVX2 and AVX-VNNI: products_*-inl.h. Thread safety: pure functions.
#pragma once

#include <array>

#if defined(QUIRE_SIMD_AVX_VNNI)
#include "quant/cpu/products_avxvnni-inl.h"
#else
#include "quant/cpu/products_avx2-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

HWY_INLINE __m256i load_bytes(const uint8_t* from) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
}

// The codes of kQuads quads in sixteen lanes, as loaded.
template <Side kSide, Form kForm>
struct Codes {
  static constexpr uint32_t kBits = kForm.bits;
  static constexpr uint32_t kQuads = 8 / kBits;
  __m256i bytes[2];

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    const uint8_t* at = codes + (size_t{step} * lanes + lane) * 4;
    return {{load_bytes(at), load_bytes(at + 32)}};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    _mm_prefetch(codes + (size_t{step} * lanes + lane) * 4, _MM_HINT_T1);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(__m256i table) const {
    __m256i chosen[2];
    for (int i = 0; i < 2; ++i) {
      if constexpr (kBits == 8) {
        chosen[i] = kSide == Side::kKey ? bytes[i] : _mm256_xor_si256(bytes[i], _mm256_set1_epi8(-128));
      } else {
        const __m256i shifted = _mm256_srli_epi16(bytes[i], kField * kBits);
        const __m256i index = _mm256_and_si256(shifted, _mm256_set1_epi8((1 << kBits) - 1));
        chosen[i] = _mm256_shuffle_epi8(table, index);
      }
    }
    return levels_of<kSide>(chosen);
  }
};

// Two planes: two vectors of two-bit fields and one of single bits serve eight quads.
template <Side kSide>
struct Codes<kSide, Form{3}> {
  static constexpr uint32_t kQuads = 8;
  __m256i low[2][2];
  __m256i high[2];

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    const uint8_t* first = codes + (size_t{2 * step} * lanes + lane) * 4;
    const uint8_t* second = first + size_t{lanes} * 4;
    const uint8_t* top = high_plane + (size_t{step} * lanes + lane) * 4;
    return {{{load_bytes(first), load_bytes(first + 32)}, {load_bytes(second), load_bytes(second + 32)}},
            {load_bytes(top), load_bytes(top + 32)}};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    _mm_prefetch(codes + (size_t{2 * step} * lanes + lane) * 4, _MM_HINT_T1);
    _mm_prefetch(codes + (size_t{2 * step + 1} * lanes + lane) * 4, _MM_HINT_T1);
    _mm_prefetch(high_plane + (size_t{step} * lanes + lane) * 4, _MM_HINT_T1);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(__m256i table) const {
    __m256i chosen[2];
    for (int i = 0; i < 2; ++i) {
      const __m256i two = _mm256_srli_epi16(low[kField / 4][i], kField % 4 * 2);
      __m256i one = high[i];  // its bit kField to bit 2
      if constexpr (kField > 2) one = _mm256_srli_epi16(high[i], kField - 2);
      if constexpr (kField < 2) one = _mm256_slli_epi16(high[i], 2 - kField);
      const __m256i index = _mm256_or_si256(_mm256_and_si256(two, _mm256_set1_epi8(3)),
                                            _mm256_and_si256(one, _mm256_set1_epi8(4)));
      chosen[i] = _mm256_shuffle_epi8(table, index);
    }
    return levels_of<kSide>(chosen);
  }
};

// The 64 levels of a trellis.
struct TrellisTable {
  __m256i sixteen[4];
  HWY_INLINE explicit TrellisTable(const LevelBytes& table) {
    for (int i = 0; i < 4; ++i) {
      const auto* at = reinterpret_cast<const __m128i*>(table.bytes + 16 * i);
      sixteen[i] = _mm256_broadcastsi128_si256(_mm_load_si128(at));
    }
  }
  // Of the bits above the six of an index the seventh may be junk, the eighth is taken away.
  HWY_INLINE __m256i of(__m256i index) const {
    const __m256i low = _mm256_and_si256(index, _mm256_set1_epi8(0x3F));
    const __m256i fifth = _mm256_slli_epi16(index, 3);  // to the bit that blendv looks at
    const __m256i first =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(sixteen[0], low), _mm256_shuffle_epi8(sixteen[1], low), fifth);
    const __m256i second =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(sixteen[2], low), _mm256_shuffle_epi8(sixteen[3], low), fifth);
    return _mm256_blendv_epi8(first, second, _mm256_slli_epi16(index, 2));
  }
};

// Where each byte stands, and where the byte before it in its lane does.
alignas(32) inline constexpr std::array<std::array<uint8_t, 32>, 2> kByteBefore = [] {
  std::array<std::array<uint8_t, 32>, 2> index{};
  for (size_t i = 0; i < 32; ++i) {
    index[0][i] = static_cast<uint8_t>(i % 16);
    index[1][i] = static_cast<uint8_t>(i % 16 / 4 * 4 + (i + 3) % 4);
  }
  return index;
}();

// What chains go on from: the bytes before those of `step`. Before the first stand the last, each of the
// lane's next byte (FORMATS.md, "Trellis codecs").
HWY_INLINE void load_before(const uint8_t* plane, uint32_t step, uint32_t steps, uint32_t lane,
                            uint32_t lanes, __m256i (&before)[2]) {
  const uint8_t* at = plane + (size_t{step == 0 ? steps - 1 : step - 1} * lanes + lane) * 4;
  const __m256i order = load_bytes(kByteBefore[step == 0 ? 1 : 0].data());
  for (int i = 0; i < 2; ++i) before[i] = _mm256_shuffle_epi8(load_bytes(at + 32 * i), order);
}

// By bit: `first` where `mask` has ones, else `second`.
template <int kMask>
HWY_INLINE __m256i join(__m256i first, __m256i second) {
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(kMask));
  return _mm256_or_si256(_mm256_and_si256(mask, first), _mm256_andnot_si256(mask, second));
}

// Bits kFrom.. of each byte moved to bit 0 (upwards where kFrom is negative); what surrounds them is junk.
template <int kFrom>
HWY_INLINE __m256i move_field(__m256i bytes) {
  if constexpr (kFrom > 0) return _mm256_srli_epi16(bytes, kFrom);
  if constexpr (kFrom < 0) return _mm256_slli_epi16(bytes, -kFrom);
  return bytes;
}

// The window that ends with the kField-th code of kBits in `bytes`, from bit 0 on; above it is junk.
template <uint32_t kBits, uint32_t kWindow, uint32_t kField>
HWY_INLINE __m256i window(__m256i bytes, __m256i before) {
  constexpr int kFrom = static_cast<int>((kField + 1) * kBits) - static_cast<int>(kWindow);
  if constexpr (kFrom >= 0)
    return move_field<kFrom>(bytes);
  else
    return join<(1 << -kFrom) - 1>(move_field<8 + kFrom>(before), move_field<kFrom>(bytes));
}

// Along a trellis.
template <Side kSide, Form kForm>
requires(kForm.trellis) struct Codes<kSide, kForm> {
  static constexpr uint32_t kQuads = 8 / kForm.bits;
  __m256i bytes[2];
  __m256i before[2];

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t steps, uint32_t lane, uint32_t lanes) {
    const uint8_t* at = codes + (size_t{step} * lanes + lane) * 4;
    Codes out{{load_bytes(at), load_bytes(at + 32)}, {}};
    load_before(codes, step, steps, lane, lanes, out.before);
    return out;
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    _mm_prefetch(codes + (size_t{step} * lanes + lane) * 4, _MM_HINT_T1);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(const TrellisTable& table) const {
    __m256i chosen[2];
    for (int i = 0; i < 2; ++i) chosen[i] = table.of(window<kForm.bits, 6, kField>(bytes[i], before[i]));
    return levels_of<kSide>(chosen);
  }
};

// Of 3 bits the window slides over the plane of single bits.
template <Side kSide>
struct Codes<kSide, Form{3, true}> {
  static constexpr uint32_t kQuads = 8;
  Codes<kSide, Form{3}> plain;
  __m256i before[2];

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* high_plane, uint32_t step, uint32_t steps,
                               uint32_t lane, uint32_t lanes) {
    Codes out{Codes<kSide, Form{3}>::load(codes, high_plane, step, steps, lane, lanes), {}};
    load_before(high_plane, step, steps, lane, lanes, out.before);
    return out;
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    Codes<kSide, Form{3}>::prefetch(codes, high_plane, step, lane, lanes);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(const TrellisTable& table) const {
    constexpr int kRest = static_cast<int>(kField % 4 * 2) - 4;  // to bits 4 and 5
    __m256i chosen[2];
    for (int i = 0; i < 2; ++i) {
      const __m256i index = join<0x0F>(window<1, 4, kField>(plain.high[i], before[i]),
                                       move_field<kRest>(plain.low[kField / 4][i]));
      chosen[i] = table.of(index);
    }
    return levels_of<kSide>(chosen);
  }
};

template <Form kForm>
HWY_INLINE auto load_table(const LevelBytes& table) {
  if constexpr (kForm.trellis)
    return TrellisTable(table);
  else
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table.bytes)));
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
