// Values to the codes of the nearest levels of a table. Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"

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

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
