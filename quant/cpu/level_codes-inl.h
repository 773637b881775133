// Values to the codes of the nearest levels of a table. Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <limits>

#include "quant/cpu/lanes-inl.h"
#include "quant/levels.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Sixteen entries for lookups. thresholds[i] lies between level i - 1 and level i.
struct LevelFloats {
  alignas(64) float levels[kLanes] = {};
  alignas(64) float thresholds[kLanes] = {};

  // of_code: [2^bits] levels, ascending.
  LevelFloats(uint32_t bits, const int8_t* of_code) {
    for (size_t i = 0; i < size_t{1} << bits; ++i) {
      levels[i] = static_cast<float>(of_code[i]);
      if (i > 0) thresholds[i] = 0.5F * static_cast<float>(of_code[i - 1] + of_code[i]);
    }
  }
};

// Calls f(integral_constant) for the width of a codec that has a table.
template <class F>
void with_table_bits(uint32_t bits, F f) {
  if (bits == 4) return f(std::integral_constant<uint32_t, 4>{});
  if (bits == 3) return f(std::integral_constant<uint32_t, 3>{});
  return f(std::integral_constant<uint32_t, 2>{});
}

// The number of thresholds below y, one bit of it at a time.
template <uint32_t kBits>
HWY_INLINE Ints level_codes(Floats y, const LevelFloats& table) {
  Ints code = splat(0);
#pragma GCC unroll 4
  for (uint32_t step = 1U << (kBits - 1); step > 0; step /= 2) {
    const Ints next = code + splat(static_cast<int32_t>(step));
    code = select(lookup(table.thresholds, next) < y, next, code);
  }
  return code;
}

// Thresholds that are far enough from each other for a cell of a grid to hold one at most: then a code is two
// look-ups by cell and one comparison. The cell of a value rises with it and is found for thresholds as for
// values, so rounding does no harm.
struct LevelCells {
#if defined(QUIRE_SIMD_AVX512)
  static constexpr uint32_t kCells = 32;
  alignas(64) float thresholds[kCells];
  alignas(64) int32_t codes[kCells];  // the thresholds below the cell
  bool apart = true;

  static HWY_INLINE Ints cell_of(Floats y) {
    const Floats place = mul_add(y, splat(1.0F / 8), splat(0.5F * kCells));
    return to_ints(max(min(place, splat(kCells - 1.0F)), splat(0.0F)));
  }
  LevelCells(uint32_t bits, const LevelFloats& table) {
    alignas(64) int32_t cells[kLanes];
    store(cell_of(load(table.thresholds)), cells);
    std::fill_n(thresholds, kCells, std::numeric_limits<float>::infinity());
    std::fill_n(codes, kCells, 0);
    for (uint32_t i = 1; i < 1U << bits; ++i) {
      apart = apart && thresholds[cells[i]] == std::numeric_limits<float>::infinity();
      thresholds[cells[i]] = table.thresholds[i];
      if (static_cast<uint32_t>(cells[i]) + 1 < kCells) codes[cells[i] + 1] = 1;
    }
    for (uint32_t cell = 1; cell < kCells; ++cell) codes[cell] += codes[cell - 1];
  }
  HWY_INLINE Ints code_of(Floats y) const {
    const __m512i cell = cell_of(y).part[0].raw;
    const __m512 threshold =
        _mm512_permutex2var_ps(_mm512_load_ps(thresholds), cell, _mm512_load_ps(thresholds + kLanes));
    const __m512i code =
        _mm512_permutex2var_epi32(_mm512_load_si512(codes), cell, _mm512_load_si512(codes + kLanes));
    const __mmask16 above = _mm512_cmp_ps_mask(threshold, y.part[0].raw, _CMP_LT_OQ);
    return Ints{{hn::Vec<IntTag>{_mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1))}}};
  }
#else
  static constexpr bool apart = false;  // look-ups in 32 entries take longer than they save
  LevelCells(uint32_t /*bits*/, const LevelFloats& /*table*/) {}
  HWY_INLINE Ints code_of(Floats /*y*/) const { return splat(0); }
#endif
};

// The levels of the rotated codecs are so nearly even that each cell of a grid holds one threshold: cells of
// this width, one of them around 0, the outer two without end.
constexpr float cell_width(uint32_t bits) { return bits == 4 ? 14.0F : bits == 3 ? 28.0F : 82.0F; }

// Threshold i lies in cell i, so far from its borders that no rounding takes a value past a threshold.
constexpr bool cells_hold_thresholds(uint32_t bits) {
  const std::span<const float> thresholds = level_table(bits).thresholds;
  const size_t middle = thresholds.size() / 2;
  const float most = 0.5F * cell_width(bits) - 1.0F;
  for (size_t i = middle; i < thresholds.size(); ++i) {
    const float offset = thresholds[i] - cell_width(bits) * static_cast<float>(i - middle);
    const bool outer = i + 1 == thresholds.size();
    if (offset < -most || (offset > most && !outer) || thresholds[2 * middle - i] != -thresholds[i]) {
      return false;
    }
  }
  return true;
}

// level_codes for the levels of a rotated codec.
template <uint32_t kBits>
HWY_INLINE Ints rotated_codes(Floats y, const LevelFloats& table) {
  static_assert(cells_hold_thresholds(kBits));
  constexpr float kTop = (1 << kBits) - 1;
  const Floats cell = mul_add(y, splat(1.0F / cell_width(kBits)), splat(0.5F * (kTop + 1.0F)));
  const Ints code = to_ints(max(min(cell, splat(kTop)), splat(1.0F)));
  return select(lookup(table.thresholds, code) < y, code, code - splat(1));
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
