// The power of two that a section's values are divided by before they are encoded. It makes half-precision
// scales serve the whole range of bf16. Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "quant/codec.h"

namespace quire {

// Bounds that keep 2^e and 2^-e, and small multiples of them, normal numbers.
inline constexpr int kMinSectionExponent = -100;
inline constexpr int kMaxSectionExponent = 120;

// Who hands values to a codec of the family clamps them to this magnitude first (FORMATS.md, Clamp), so that
// whatever they are decoded to is finite. Only sections at kMaxSectionExponent can hold more. 0: no limit.
constexpr float largest_input(CodecFamily family) {
  if (family == CodecFamily::kUniform) return 0x1.FEp127F;  // the largest bf16
  return family == CodecFamily::kNonUniform ? 0x1p124F : 0.0F;
}

// floor(log2(largest)) within the bounds; 0 for 0. largest: >= 0 and finite.
constexpr int section_exponent(float largest) {
  if (largest == 0.0F) return 0;
  const int exponent = static_cast<int>(std::bit_cast<uint32_t>(largest) >> 23) - 127;
  return std::clamp(exponent, kMinSectionExponent, kMaxSectionExponent);
}

}  // namespace quire
