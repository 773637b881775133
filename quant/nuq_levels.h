// The levels of nuq codecs where a layer brings none of its own, and what scales mean in them.
//
// They are the k-means levels of Gaussians that were brought to [-127, 127] by their own range, 64 at a time
// for keys (the tokens of a page) and 128 for values (the channels of a token). Calibration finds those of a
// layer. Thread safety: constants.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "quant/codec.h"

namespace quire {

inline constexpr std::array<int8_t, 16> kNuq4KeyLevels{-123, -98, -79, -62, -47, -33, -19, -6,
                                                       6,    19,  33,  47,  62,  79,  98,  123};
inline constexpr std::array<int8_t, 8> kNuq3KeyLevels{-112, -71, -40, -13, 13, 40, 71, 112};
inline constexpr std::array<int8_t, 4> kNuq2KeyLevels{-84, -25, 25, 84};
inline constexpr std::array<int8_t, 16> kNuq4ValueLevels{-121, -95, -75, -59, -44, -31, -18, -6,
                                                         6,    18,  31,  44,  59,  75,  95,  121};
inline constexpr std::array<int8_t, 8> kNuq3ValueLevels{-105, -66, -37, -12, 12, 37, 66, 105};
inline constexpr std::array<int8_t, 4> kNuq2ValueLevels{-76, -23, 23, 76};

// The 2^bits levels of a non-uniform codec: the layer's, or the default ones.
constexpr const int8_t* nuq_levels(uint32_t bits, Side side, const int8_t* of_layer) {
  if (of_layer != nullptr) return of_layer;
  if (bits == 4) return side == Side::kKey ? kNuq4KeyLevels.data() : kNuq4ValueLevels.data();
  if (bits == 3) return side == Side::kKey ? kNuq3KeyLevels.data() : kNuq3ValueLevels.data();
  return side == Side::kKey ? kNuq2KeyLevels.data() : kNuq2ValueLevels.data();
}

// Midway between the levels i - 1 and i, exact in f32; i > 0. A value's code is the number of these below it.
constexpr float threshold_below(const int8_t* levels, size_t i) {
  return 0.5F * static_cast<float>(levels[i - 1] + levels[i]);
}

// A stored scale is worth 128 level units, which keeps small ones normal halves.
inline constexpr float kNuqLevelUnit = 0x1p-7F;
// From a group's range to its scale: level 127 stands for the upper end.
inline constexpr float kNuqRangeToScale = 0x1.020408p-1F;  // f32(64 / 127)

// The group of a stored outlier: one beyond the last is taken as the last.
constexpr uint32_t outlier_group(uint16_t stored, uint32_t groups) {
  const uint32_t group = stored & 0xFFU;
  return group < groups ? group : groups - 1;
}

}  // namespace quire
