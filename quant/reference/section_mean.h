// The mean of a section per channel, which rotated and trellis codecs take away first: FORMATS.md, "Rotated
// codecs", steps 2 and 3. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>

#include "quant/codec.h"
#include "quant/reference/sum16.h"

namespace quire::reference {

// Means and scales below this, beside values near 1, are taken as zero; nothing on the way to a code can
// then underflow.
inline constexpr float kNegligible = 0x1p-60F;

// The mean as it will be decoded, and its codes.
struct SectionMean {
  int step = 0;
  std::array<int8_t, kMaxDim> codes{};
  Row values{};
};

// x: [tokens][dim]; tokens below `first` are left out. down: what brings x to the section's exponent.
SectionMean section_mean(SectionShape shape, const float* x, uint32_t first, float down);

// One row of x less the mean.
Row residual_of(const float* row, uint32_t dim, float down, const SectionMean& mean);

// The 16-bit halves of a param: the step of the largest scale, whatever it counts in, and that of the mean.
constexpr uint32_t pack_steps(int scale_step, int mean_step) {
  return uint32_t{static_cast<uint16_t>(scale_step)} | uint32_t{static_cast<uint16_t>(mean_step)} << 16;
}

}  // namespace quire::reference
