// Rotary position embedding as a versioned value: angles, and the rotation of rows.
//
// Pairs are split halves: channel i turns with channel i + rotary_dim / 2; channels from rotary_dim on stay.
// Thread safety: pure functions on values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcache/status.h"

namespace quire {

struct Rope {
  uint32_t epoch = 0;            // version of the values below
  uint32_t rotary_dim = 0;       // even, <= head_dim
  float attention_factor = 1;    // multiplies cos and sin (yarn); applied by whoever scales the scores
  std::vector<double> inv_freq;  // [rotary_dim / 2] radians per position
};

// kInvalid with the reason when a value is outside the ranges above or not finite.
Status validate_rope(const Rope& rope, uint32_t head_dim);

// cos and sin, [rotary_dim / 2] each, of position * inv_freq; not multiplied by the attention factor.
// |position| <= 2^53. The product is kept in two f64 parts and reduced before it becomes f32: the error is
// that of f32 rounding (< 1e-7) at every position.
void rope_angles(const Rope& rope, int64_t position, float* cos, float* sin);

// In place over x[rows][head_dim], all rows by the same angles, cos and sin [rotary_dim / 2]:
// (x_i, x_j) = (x_i cos_i - x_j sin_i, x_j cos_i + x_i sin_i), j = i + rotary_dim / 2.
void rotate_rows(float* x, size_t rows, uint32_t head_dim, const float* cos, const float* sin,
                 uint32_t rotary_dim);

// Angles of the offsets inside a page.
struct RopeOffsets {
  uint32_t tokens = 0;
  uint32_t half = 0;       // rotary_dim / 2
  std::vector<float> cos;  // [half][tokens]
  std::vector<float> sin;  // [half][tokens]
};

RopeOffsets make_rope_offsets(const Rope& rope, uint32_t tokens);

}  // namespace quire
