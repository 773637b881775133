// bf16 and IEEE half (f16) as 16-bit patterns, and the upper byte of f16 as an 8-bit float (e5m2).
// Conversions to f32 are exact; conversions from f32 round to nearest even and keep subnormals. Thread
// safety: pure functions.
#pragma once

#include <bit>
#include <cstdint>

namespace quire {

constexpr float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Finite values beyond the largest bf16 saturate to it: a cache must not make an infinity of its own.
constexpr uint16_t f32_to_bf16(float value) {
  constexpr uint32_t kLargest = 0x7F7F;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<uint16_t>(bits >> 16 | 0x40U);  // NaN stays NaN
  if (magnitude == 0x7F800000U) return static_cast<uint16_t>(bits >> 16);
  const uint32_t rounded = (magnitude + 0x7FFFU + (magnitude >> 16 & 1U)) >> 16;
  return static_cast<uint16_t>(sign | (rounded < kLargest ? rounded : kLargest));
}

constexpr float f16_to_f32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000U} << 16;
  const uint32_t exponent = bits >> 10 & 0x1FU;
  const uint32_t fraction = bits & 0x3FFU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// Values beyond the largest f16 become infinite, as IEEE says.
constexpr uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x47800000U) return static_cast<uint16_t>(sign | 0x7C00U);  // 2^16 or more
  if (magnitude < 0x38800000U) {
    // Below 2^-14 the result is a multiple of 2^-24: adding 1/2 leaves exactly these bits, rounded.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000U));
  }
  const uint32_t rounded = magnitude + 0xFFFU + (magnitude >> 13 & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

// f16 rounded once more, to nearest even, to its upper byte. -0 becomes +0. |value| <= 57344.
constexpr uint8_t f32_to_e5m2(float value) {
  const uint32_t half = f32_to_f16(value);
  const uint32_t byte = (half + 0x7FU + (half >> 8 & 1U)) >> 8;
  return static_cast<uint8_t>(byte == 0x80U ? 0 : byte);
}
constexpr float e5m2_to_f32(uint8_t byte) { return f16_to_f32(static_cast<uint16_t>(byte << 8)); }

}  // namespace quire
