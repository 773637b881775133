// Values to the codes of the nearest levels of a table. Thread safety: pure functions.
#pragma once

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
