// Scales of tokens in eight bits, as tcq codecs keep them: floats of 4 to 7 mantissa bits, counted down from
// the section's largest. Each section has as many mantissa bits as its range of scales leaves room for.
//
// A place is an integer that orders such floats: with m mantissa bits, place n stands for
// (1 + (n mod 2^m) / 2^m) * 2^floor(n / 2^m). FORMATS.md, "Trellis codecs". Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/steps.h"

namespace quire {

inline constexpr uint32_t kFewestMantissaBits = 4;
inline constexpr uint32_t kMostMantissaBits = 7;
inline constexpr int kLastScaleCode = 255;

// The nearest place, ties upwards. scale: positive, finite and normal.
constexpr int round_to_place(float scale, uint32_t mantissa_bits) {
  const uint32_t dropped = 23 - mantissa_bits;
  const uint32_t rounded = std::bit_cast<uint32_t>(scale) + (1U << (dropped - 1));
  return static_cast<int>(rounded >> dropped) - (127 << mantissa_bits);
}

// A place with m bits as one with 7.
constexpr int widen_place(int place, uint32_t mantissa_bits) {
  return place * (1 << (kMostMantissaBits - mantissa_bits));
}

// What a section's param says of its scales.
struct ScaleRange {
  int largest;             // the place of the largest scale, with 7 mantissa bits
  uint32_t mantissa_bits;  // of all

  // The scale of a code, divided by factor(). code: not 0.
  constexpr float relative(uint8_t code) const {
    const int within = largest & ((1 << kMostMantissaBits) - 1);
    const int place = (within >> (kMostMantissaBits - mantissa_bits)) + code - kLastScaleCode;
    const auto bits = static_cast<uint32_t>(place + (127 << mantissa_bits));
    return std::bit_cast<float>(bits << (23 - mantissa_bits));
  }
  // The power of two of the octave of the largest; 0 below the normal numbers.
  constexpr float factor() const { return step_value((largest >> kMostMantissaBits) * kStepsPerOctave); }
};

constexpr float scale_of(const ScaleRange& range, uint8_t code) {
  return code == 0 ? 0.0F : range.relative(code) * range.factor();
}

// Writes the code of each scale, 0 for a scale of 0 and for what lies too far below the largest.
constexpr ScaleRange encode_scales(std::span<const float> scales, uint8_t* codes) {
  float largest = 0.0F;
  float smallest = 0.0F;
  for (const float scale : scales) {
    if (scale > largest) largest = scale;
    if (scale > 0.0F && (smallest == 0.0F || scale < smallest)) smallest = scale;
  }
  std::fill_n(codes, scales.size(), uint8_t{0});
  if (largest == 0.0F) return {0, kFewestMantissaBits};
  uint32_t bits = kMostMantissaBits;
  while (bits > kFewestMantissaBits &&
         round_to_place(largest, bits) - round_to_place(smallest, bits) >= kLastScaleCode) {
    --bits;
  }
  const int top = round_to_place(largest, bits);
  for (size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] == 0.0F) continue;
    const int code = round_to_place(scales[i], bits) - top + kLastScaleCode;
    if (code > 0) codes[i] = static_cast<uint8_t>(code);
  }
  return {widen_place(top, bits), bits};
}

// The param of a trellis codec: largest place in 16 bits, step of the mean in 14, mantissa bits - 4 in two.
constexpr uint32_t pack_trellis_param(const ScaleRange& range, int mean_step) {
  return uint32_t{static_cast<uint16_t>(range.largest)} | (static_cast<uint32_t>(mean_step) & 0x3FFFU) << 16 |
         (range.mantissa_bits - kFewestMantissaBits) << 30;
}
constexpr ScaleRange scale_range(uint32_t param) {
  return {static_cast<int16_t>(param & 0xFFFFU), kFewestMantissaBits + (param >> 30)};
}
constexpr int trellis_mean_step(uint32_t param) { return static_cast<int32_t>(param << 2) >> 18; }

}  // namespace quire
