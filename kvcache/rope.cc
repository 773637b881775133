#include "kvcache/rope.h"

#include <cmath>
#include <string>

namespace quire {

Status validate_rope(const Rope& rope, uint32_t head_dim) {
  if (rope.rotary_dim == 0 || rope.rotary_dim % 2 != 0 || rope.rotary_dim > head_dim) {
    return invalid("rotary_dim is " + std::to_string(rope.rotary_dim) +
                   "; it must be even, more than 0 and at most head_dim " + std::to_string(head_dim));
  }
  if (rope.inv_freq.size() != rope.rotary_dim / 2) {
    return invalid("rope has " + std::to_string(rope.inv_freq.size()) + " inverse frequencies; rotary_dim " +
                   std::to_string(rope.rotary_dim) + " needs " + std::to_string(rope.rotary_dim / 2));
  }
  if (!std::isfinite(rope.attention_factor) || rope.attention_factor <= 0) {
    return invalid("rope's attention_factor is " + std::to_string(rope.attention_factor) +
                   "; it must be finite and more than 0");
  }
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    if (!std::isfinite(rope.inv_freq[i])) {
      return invalid("rope's inverse frequency " + std::to_string(i) + " is not finite");
    }
  }
  return {};
}

void rope_angles(const Rope& rope, int64_t position, float* cos, float* sin) {
  const auto p = static_cast<double>(position);
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    const double angle = p * rope.inv_freq[i];
    // What the product lost by rounding: up to 6e-5 radians at position 2^40, so two terms of the series do.
    const double rest = std::fma(p, rope.inv_freq[i], -angle);
    const double cos_rest = 1 - rest * rest / 2;
    const double cos_angle = std::cos(angle);
    const double sin_angle = std::sin(angle);
    cos[i] = static_cast<float>(cos_angle * cos_rest - sin_angle * rest);
    sin[i] = static_cast<float>(sin_angle * cos_rest + cos_angle * rest);
  }
}

void rotate_rows(float* x, size_t rows, uint32_t head_dim, const float* cos, const float* sin,
                 uint32_t rotary_dim) {
  const uint32_t half = rotary_dim / 2;
  for (size_t row = 0; row < rows; ++row) {
    float* low = x + row * head_dim;
    float* high = low + half;
    for (uint32_t i = 0; i < half; ++i) {
      const float a = low[i];
      const float b = high[i];
      low[i] = a * cos[i] - b * sin[i];
      high[i] = b * cos[i] + a * sin[i];
    }
  }
}

RopeOffsets make_rope_offsets(const Rope& rope, uint32_t tokens) {
  RopeOffsets offsets;
  offsets.tokens = tokens;
  offsets.half = rope.rotary_dim / 2;
  offsets.cos.resize(size_t{tokens} * offsets.half);
  offsets.sin.resize(size_t{tokens} * offsets.half);
  std::vector<float> cos(offsets.half);
  std::vector<float> sin(offsets.half);
  for (uint32_t t = 0; t < tokens; ++t) {
    rope_angles(rope, t, cos.data(), sin.data());
    for (size_t i = 0; i < offsets.half; ++i) {
      offsets.cos[i * tokens + t] = cos[i];
      offsets.sin[i * tokens + t] = sin[i];
    }
  }
  return offsets;
}

}  // namespace quire
