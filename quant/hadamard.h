// The rotation of rot codecs: a normalised Walsh-Hadamard matrix over the largest power-of-two blocks of
// head_dim. Thread safety: pure functions.
#pragma once

#include <cstdint>

namespace quire {

// Inputs are clamped to this first: no sum of a block can overflow, with balance factors within 2^+-10.
inline constexpr float kRotationClamp = 0x1p96F;

// The largest power of two that divides dim: 96 rotates as three blocks of 32. dim: 32..256, multiple of 32.
constexpr uint32_t hadamard_block(uint32_t dim) { return dim & (~dim + 1); }

// f32(1 / sqrt(block)).
constexpr float hadamard_norm(uint32_t block) {
  switch (block) {
    case 32:
      return 0x1.6a09e6p-3F;
    case 64:
      return 0.125F;
    case 128:
      return 0x1.6a09e6p-4F;
    default:
      return 0.0625F;
  }
}

}  // namespace quire
