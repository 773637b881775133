#include "quant/reference/key_rotation.h"

#include <algorithm>

#include "quant/reference/rotate.h"

namespace quire::reference {
namespace {

// Turns the pairs (i, i + half) of one row by angles whose cosines and sines stand `stride` apart.
void turn(float* row, uint32_t half, const float* cosines, const float* sines, size_t stride,
          float direction) {
  for (uint32_t i = 0; i < half; ++i) {
    const float a = row[i];
    const float b = row[i + half];
    const float cosine = cosines[i * stride];
    const float sine = direction * sines[i * stride];
    row[i] = a * cosine - b * sine;
    row[i + half] = b * cosine + a * sine;
  }
}

void leave_rotated_space(const float* balance, SectionShape shape, float* keys) {
  rotate(keys, shape.tokens, shape.dim, nullptr, keys);
  for (size_t i = 0; i < size_t{shape.tokens} * shape.dim; ++i) keys[i] /= balance[i % shape.dim];
}

}  // namespace

void rotate_keys(const KeyRotation& rotation, SectionShape shape, float* keys) {
  if (rotation.key_balance != nullptr) leave_rotated_space(rotation.key_balance, shape, keys);
  const uint32_t half = rotation.rotary_dim / 2;
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    turn(keys + size_t{token} * shape.dim, half, rotation.token_cos + token, rotation.token_sin + token,
         shape.tokens, 1.0F);
  }
}

void unrotate_query(const KeyRotation& rotation, size_t section, uint32_t dim, const float* q, float* out) {
  const uint32_t half = rotation.rotary_dim / 2;
  std::copy_n(q, dim, out);
  turn(out, half, rotation.base_cos + section * half, rotation.base_sin + section * half, 1, -1.0F);
}

}  // namespace quire::reference
