// Logarithmic steps: the scales and mean steps of rot codecs are step(n) = 2^(n/16), as FORMATS.md rounds it.
//
// Sixteen steps per octave; n is any integer. Thread safety: pure functions.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace quire {

inline constexpr int kStepsPerOctave = 16;

// f32(2^(i / 16)).
inline constexpr std::array<float, kStepsPerOctave> kStepMantissa{
    0x1p0F,        0x1.0b5586p0F, 0x1.172b84p0F, 0x1.2387a6p0F, 0x1.306fep0F,  0x1.3dea64p0F,
    0x1.4bfdaep0F, 0x1.5ab07ep0F, 0x1.6a09e6p0F, 0x1.7a1148p0F, 0x1.8ace54p0F, 0x1.9c4918p0F,
    0x1.ae89fap0F, 0x1.c199bep0F, 0x1.d5818ep0F, 0x1.ea4afap0F};

// f32(2^((i + 1/2) / 16)): at or above entry i a mantissa is nearer to step i + 1.
inline constexpr std::array<float, kStepsPerOctave> kStepBoundary{
    0x1.059b0ep0F, 0x1.11301ep0F, 0x1.1d4874p0F, 0x1.29e9ep0F,  0x1.371a74p0F, 0x1.44e086p0F,
    0x1.5342b6p0F, 0x1.6247ecp0F, 0x1.71f75ep0F, 0x1.82589ap0F, 0x1.93737cp0F, 0x1.a5503cp0F,
    0x1.b7f77p0F,  0x1.cb720ep0F, 0x1.dfc974p0F, 0x1.f50766p0F};

// 2^exponent, exact. Exponents outside the normal range [-126, 127] are taken to its ends.
constexpr float power_of_two(int exponent) {
  const int normal = exponent < -126 ? -126 : exponent > 127 ? 127 : exponent;
  return std::bit_cast<float>(static_cast<uint32_t>(normal + 127) << 23);
}

// 0 below 2^-126: a value that small does not matter, and results stay normal numbers.
constexpr float step_value(int n) {
  const int octave = n >> 4;  // rounds down
  if (octave < -126) return 0.0F;
  return kStepMantissa[static_cast<uint32_t>(n) % kStepsPerOctave] * power_of_two(octave);
}

struct StepParts {
  int octave;
  float mantissa;  // [1, 2)
};

// value: positive, finite and normal.
constexpr StepParts step_parts(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return {static_cast<int>(bits >> 23) - 127, std::bit_cast<float>((bits & 0x007FFFFFU) | 0x3F800000U)};
}

// The step nearest to value on the logarithmic scale. value: positive, finite and normal.
constexpr int round_step(float value) {
  const StepParts parts = step_parts(value);
  int n = parts.octave * kStepsPerOctave;
  for (const float boundary : kStepBoundary) n += parts.mantissa >= boundary ? 1 : 0;
  return n;
}

// The smallest n with step_value(n) >= value. value: positive, finite and normal.
constexpr int ceil_step(float value) {
  const StepParts parts = step_parts(value);
  int n = parts.octave * kStepsPerOctave;
  for (const float mantissa : kStepMantissa) n += mantissa < parts.mantissa ? 1 : 0;
  return n;
}

}  // namespace quire
