// Rotary position embedding: frequencies as transformers computes them, angles in f64.
//
// A position p turns the pair (x[i], x[i + D/2]) by p * inv_freq[i] and scales it by attention_factor.
// Angles stay in f64 until their cosine is taken: an f32 angle errs by 0.03 rad at one million.
// Thread safety: values and pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/config.h"

namespace quire::qwen3 {

struct Rope {
  std::vector<double> inv_freq;  // [head_dim / 2]
  float attention_factor = 1;
};

// `length` is the number of positions of the whole sequence. Only dynamic scaling depends on it: choose it
// once per sequence, because keys rotated with other frequencies do not fit together.
Rope make_rope(const RopeConfig& config, uint32_t head_dim, uint64_t max_positions, uint64_t length);

// cos and sin of consecutive positions, times attention_factor: [count][head_dim / 2] each.
struct RopeTable {
  std::vector<float> cosines;
  std::vector<float> sines;
  uint32_t half = 0;
};
RopeTable make_rope_table(const Rope& rope, uint64_t first_position, uint32_t count);

// Rotates one head [head_dim] in place, as row `row` of the table says.
void rotate(std::span<float> head, const RopeTable& table, uint32_t row);
// The same by the row's own cosines and sines [head_dim / 2].
void rotate(std::span<float> head, std::span<const float> cosines, std::span<const float> sines);

}  // namespace quire::qwen3
