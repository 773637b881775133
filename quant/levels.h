// The reconstruction levels of rot codecs: Lloyd-Max levels of a unit Gaussian, scaled so that the outermost
// is 127 and rounded to integers. Code i means level i, ascending. Thread safety: constants.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace quire {

inline constexpr std::array<int8_t, 16> kRot4Levels{-127, -96, -75, -58, -44, -31, -18, -6,
                                                    6,    18,  31,  44,  58,  75,  96,  127};
inline constexpr std::array<int8_t, 8> kRot3Levels{-127, -79, -45, -14, 14, 45, 79, 127};
inline constexpr std::array<int8_t, 4> kRot2Levels{-127, -38, 38, 127};

// Midpoints of neighbouring levels, exact in f32. A value's code is the number of thresholds below it.
template <size_t kLevels>
constexpr std::array<float, kLevels - 1> level_thresholds(const std::array<int8_t, kLevels>& levels) {
  std::array<float, kLevels - 1> thresholds{};
  for (size_t i = 0; i + 1 < kLevels; ++i) {
    thresholds[i] = 0.5F * static_cast<float>(levels[i] + levels[i + 1]);
  }
  return thresholds;
}

inline constexpr auto kRot4Thresholds = level_thresholds(kRot4Levels);
inline constexpr auto kRot3Thresholds = level_thresholds(kRot3Levels);
inline constexpr auto kRot2Thresholds = level_thresholds(kRot2Levels);

// The standard deviation of the Gaussian in level units: 127 / its largest Lloyd-Max level.
inline constexpr float kRot4Unit = 0x1.73cefap+5F;  // 46.47606
inline constexpr float kRot3Unit = 0x1.d8218p+5F;   // 59.01636
inline constexpr float kRot2Unit = 0x1.5054bp+6F;   // 84.08270

struct LevelTable {
  std::span<const int8_t> levels;
  std::span<const float> thresholds;
  float unit;
};

// bits: 4, 3 or 2.
constexpr LevelTable level_table(uint32_t bits) {
  if (bits == 4) return {kRot4Levels, kRot4Thresholds, kRot4Unit};
  if (bits == 3) return {kRot3Levels, kRot3Thresholds, kRot3Unit};
  return {kRot2Levels, kRot2Thresholds, kRot2Unit};
}

// The scale of a token of this energy (the sum of its squared residuals), whose levels have these products
// with it (above 0) and these squares: FORMATS.md, "Rotated codecs", says why it is not the one of least
// squares.
constexpr float rotated_scale(float energy, float products, float squares) {
  const float unbiased = energy / products;
  const float most = 2.0F * (products / squares);
  return unbiased < most ? unbiased : most;
}

}  // namespace quire
