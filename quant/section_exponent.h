// The power of two that a section's values are divided by before they are encoded. It makes half-precision
// scales serve the whole range of bf16. Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace quire {

// Bounds that keep 2^e and 2^-e, and small multiples of them, normal numbers.
inline constexpr int kMinSectionExponent = -100;
inline constexpr int kMaxSectionExponent = 120;

// floor(log2(largest)) within the bounds; 0 for 0. largest: >= 0 and finite.
constexpr int section_exponent(float largest) {
  if (largest == 0.0F) return 0;
  const int exponent = static_cast<int>(std::bit_cast<uint32_t>(largest) >> 23) - 127;
  return std::clamp(exponent, kMinSectionExponent, kMaxSectionExponent);
}

}  // namespace quire
