// Sums rounded to odd: whoever rounds them once more, to fewer bits, gets what one rounding would have given.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace emu {

// `rounded` is the nearest number to a sum whose exact value lies beyond it by `rest`.
template <typename Bits, typename T>
T to_odd(T rounded, double rest) {
  const auto bits = std::bit_cast<Bits>(rounded);
  if (rest == 0.0 || !std::isfinite(rounded) || bits % 2 == 1) return rounded;
  const bool larger = (rest > 0.0) == (rounded > T{0});
  return std::bit_cast<T>(larger ? bits + 1 : bits - 1);
}

inline double sum_to_odd(double a, double b) {
  const double sum = a + b;
  const double b_in_sum = sum - a;
  return to_odd<uint64_t>(sum, (a - (sum - b_in_sum)) + (b - b_in_sum));
}

inline float narrow_to_odd(double value) {
  const auto rounded = static_cast<float>(value);
  return to_odd<uint32_t>(rounded, value - double{rounded});
}

}  // namespace emu
