// The trellises of tcq codecs: an element's level is chosen by its own code and by those before it in its
// chain, so that a code of b bits speaks of more than 2^b levels (Marcellin and Fischer, Trellis Coded
// Quantization, 1990; with a sliding window over the codes as in Tseng et al., QTIP, 2024).
//
// The window slides over the history bits of the codes; what a code has beside them, its rest, chooses among
// levels without being remembered. FORMATS.md "Trellis codecs" has all of it in words. Thread safety: pure
// functions and constants.
#pragma once

#include <array>
#include <cstdint>

#include "quant/codec.h"

namespace quire {

inline constexpr uint32_t kTrellisLevels = 64;
using TrellisLevels = std::array<int8_t, kTrellisLevels>;

// Codes are history_bits and above them, for 3 bits below them, rest_bits; window_bits + rest_bits = 6.
struct Trellis {
  uint32_t history_bits;
  uint32_t window_bits;
  uint32_t rest_bits;
  TrellisLevels levels;  // [window + 2^window_bits * rest]

  constexpr uint32_t bits() const { return history_bits + rest_bits; }
  constexpr uint32_t states() const { return 1U << (window_bits - history_bits); }
};

// A chain is a ring: before its first element stands its last. A writer closes it in the state of the
// cheapest path over so many elements before and after the seam.
inline constexpr uint32_t kSeamReach = 8;

// The window at the element whose code is `code`, from the window at the one before it.
constexpr uint32_t next_window(const Trellis& trellis, uint32_t window, uint32_t code) {
  const uint32_t history = code >> trellis.rest_bits;
  return window >> trellis.history_bits | history << (trellis.window_bits - trellis.history_bits);
}

// The index of the level of that element.
constexpr uint32_t level_index(const Trellis& trellis, uint32_t window, uint32_t code) {
  const uint32_t rest = code & ((1U << trellis.rest_bits) - 1);
  return window | rest << trellis.window_bits;
}

// Levels in fortieths of a Gaussian's standard deviation; design_trellis.py made them.
inline constexpr float kTrellisUnit = 40.0F;
inline constexpr TrellisLevels kTcq4Levels{
    -102, -29, -22, -69, -39, -14, -7,  -52, 35,  1,   8,   45, 88, 26, 18, 59, 6,  39, 53,  13,  29,  102,
    72,   22,  -26, -80, -61, -17, -9,  -35, -46, -1,  46,  9,  1,  36, 61, 18, 27, 80, -71, -22, -30, -124,
    -52,  -6,  -14, -40, -17, -60, -88, -27, -2,  -45, -36, -9, 13, 52, 40, 6,  21, 68, 124, 30};
inline constexpr TrellisLevels kTcq3Levels{
    -95, 35, 3,  19,  50,  -69, 29,  -18, 38,  -116, 20,  3,  -69, 48,  13,  29, -51, 62,  -29, -13, 94,  -41,
    -2,  13, 66, -52, -12, -29, -41, 114, -18, -2,   18,  2,  39,  -79, 11,  28, -61, 48,  3,   18,  -84, 37,
    28,  11, 50, -62, -13, -30, 67,  -48, -22, -5,   -36, 79, -30, -13, -49, 62, -5,  -22, 83,  -36};
inline constexpr TrellisLevels kTcq2Levels{
    -81, 44, 8,   -24, -40, 63, 23,   -7,  21, -7,  -41, 71,  7,   -21, -63, 40,  8,  -19, -62, 42, 22, -6,
    -40, 67, -41, 54,  21,  -9, -103, 42,  8,  -24, 40,  -55, -20, 7,   66,  -41, -7, 22,  -10, 21, 81, -46,
    -23, 7,  40,  -73, -23, 9,  42,   -62, -6, 26,  103, -40, 63,  -40, -8,  21,  39, -72, -22, 5};
inline constexpr TrellisLevels kTcq1Levels{
    -31, 16, -19, 39,  -44, 11,  -13, 59,  45, -11, 15, -55, 32,  -21, 19,  -29, -24, 34,  -31, 18, -11, 59,
    -40, 16, 15,  -69, 68,  -8,  8,   -58, 34, -24, 27, -54, 37,  -18, 13,  -55, 52,  -12, -14, 65, -41, 13,
    -21, 24, -31, 19,  33,  -19, 19,  -28, 48, -11, 16, -46, -40, 15,  -10, 66,  -71, 11,  -20, 30};

inline constexpr Trellis kTcq4Trellis{4, 6, 0, kTcq4Levels};
inline constexpr Trellis kTcq3Trellis{1, 4, 2, kTcq3Levels};
inline constexpr Trellis kTcq2Trellis{2, 6, 0, kTcq2Levels};
inline constexpr Trellis kTcq1Trellis{1, 6, 0, kTcq1Levels};

// bits: 4, 3, 2 or 1.
constexpr const Trellis& trellis_of(uint32_t bits) {
  if (bits == 4) return kTcq4Trellis;
  if (bits == 3) return kTcq3Trellis;
  if (bits == 2) return kTcq2Trellis;
  return kTcq1Trellis;
}

// Where in its lane's chain an element stands: first those with reduction index 0, 4, 8, .., then 1, 5, 9, ..
constexpr uint32_t chain_reduction(uint32_t place, uint32_t reductions) {
  const uint32_t quads = reductions / 4;
  return place % quads * 4 + place / quads;
}

// The scale of a token of this energy (the sum of its squared residuals) and products (the sum of residual
// times level): that which makes the levels, seen from the token itself, as long as the token. Least squares
// would leave them shorter, by what the levels miss of the token; scores and outputs sum over many elements
// and would all be biased by it. 0 where the levels hardly point the token's way: such a token is no more
// than the mean.
constexpr float trellis_scale(float energy, float products, float target_scale) {
  constexpr float kMost = 16.0F;
  return energy < target_scale * products * kMost ? energy / products : 0.0F;
}

}  // namespace quire
