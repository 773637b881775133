// What the made-up world holds, and attention over it in f64: plain arithmetic, compiled apart from
// everything that a sanitizer looks at.
#include <algorithm>
#include <cmath>

#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Roughly Gaussian with unit variance.
float noise(uint64_t key) {
  double sum = 0;
  for (uint64_t i = 0; i < 4; ++i) sum += static_cast<double>(mix(key * 4 + i) >> 11) * 0x1p-53;
  return static_cast<float>((sum - 2.0) * std::sqrt(3.0));
}

}  // namespace

Rope test_rope(const World& world) {
  Rope rope;
  rope.epoch = 1;
  rope.rotary_dim = world.head_dim;
  for (uint32_t i = 0; i < world.head_dim / 2; ++i) {
    rope.inv_freq.push_back(std::pow(1e6, -2.0 * i / world.head_dim));
  }
  return rope;
}

std::vector<float> rows(const World& world, Row row, uint32_t layer, uint64_t first, uint64_t count) {
  const uint32_t width = row == Row::kQuery ? world.query_row() : world.kv_row();
  const uint64_t stream = mix(world.seed * 1000 + static_cast<uint64_t>(row) * 100 + layer);
  std::vector<float> mean(width);  // that pages share
  for (uint64_t channel = 0; row == Row::kKey && channel < width; ++channel) {
    mean[channel] = 0.5F * noise(stream ^ mix(channel));
  }
  std::vector<float> out(count * width);
  for (uint64_t i = 0; i < out.size(); ++i) out[i] = noise(stream ^ (first * width + i)) + mean[i % width];
  return out;
}

namespace {

void rotate_f64(const Rope& rope, uint64_t position, double* row) {
  const size_t half = rope.rotary_dim / 2;
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * rope.inv_freq[i];
    const double a = row[i];
    const double b = row[i + half];
    row[i] = a * std::cos(angle) - b * std::sin(angle);
    row[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

std::vector<double> head_row(const World& world, const std::vector<float>& all, uint64_t index, uint32_t head,
                             uint32_t heads) {
  const float* begin = all.data() + (index * heads + head) * world.head_dim;
  return {begin, begin + world.head_dim};
}

}  // namespace

std::vector<double> attend_reference(const World& world, uint32_t layer, uint64_t position, uint64_t window) {
  const uint64_t first = window != 0 && position + 1 > window ? position + 1 - window : 0;
  const uint64_t count = position + 1 - first;
  const std::vector<float> keys = rows(world, Row::kKey, layer, first, count);
  const std::vector<float> values = rows(world, Row::kValue, layer, first, count);
  const std::vector<float> queries = rows(world, Row::kQuery, layer, position, 1);
  const Rope rope = world.key_space == KeySpace::kPreRope ? test_rope(world) : Rope{};
  std::vector<double> out(world.query_row(), 0.0);
  for (uint32_t head = 0; head < world.query_heads; ++head) {
    const uint32_t kv_head = head / (world.query_heads / world.kv_heads);
    std::vector<double> q = head_row(world, queries, 0, head, world.query_heads);
    rotate_f64(rope, position, q.data());
    std::vector<double> scores(count);
    for (uint64_t t = 0; t < count; ++t) {
      std::vector<double> k = head_row(world, keys, t, kv_head, world.kv_heads);
      rotate_f64(rope, first + t, k.data());
      for (uint32_t c = 0; c < world.head_dim; ++c) scores[t] += q[c] * k[c];
      scores[t] /= std::sqrt(static_cast<double>(world.head_dim));
    }
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (uint64_t t = 0; t < count; ++t) sum += std::exp(scores[t] - most);
    for (uint64_t t = 0; t < count; ++t) {
      const double weight = std::exp(scores[t] - most) / sum;
      const std::vector<double> v = head_row(world, values, t, kv_head, world.kv_heads);
      for (uint32_t c = 0; c < world.head_dim; ++c) out[size_t{head} * world.head_dim + c] += weight * v[c];
    }
  }
  return out;
}

double relative_error(const float* a, const std::vector<double>& b) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace quire::testing
