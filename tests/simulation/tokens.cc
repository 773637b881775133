#include "tests/simulation/tokens.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "tests/simulation/random.h"

namespace quire::testing {
namespace {

constexpr uint32_t kVectors = 4096;
constexpr uint32_t kWidest = 64;

float to_bf16(float x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000U); }

// [kVectors][kWidest], roughly Gaussian.
std::vector<float> make_vectors() {
  SimRandom random(20240607);
  std::vector<float> vectors(size_t{kVectors} * kWidest);
  for (float& x : vectors) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(random.next() >> 11) * 0x1p-53;
    x = to_bf16(static_cast<float>((sum - 2.0) * std::sqrt(3.0)));
  }
  return vectors;
}

const float* vector_of(Side side, uint32_t layer, uint32_t token, uint32_t head) {
  static const std::vector<float> vectors = make_vectors();
  uint64_t key =
      uint64_t{token} << 16 ^ uint64_t { layer } << 8 ^ uint64_t { head } << 4 ^ static_cast<uint64_t>(side);
  key *= 0x9e3779b97f4a7c15ULL;
  key ^= key >> 29;
  key *= 0xbf58476d1ce4e5b9ULL;
  return vectors.data() + (key >> 52) * kWidest;
}

}  // namespace

std::vector<float> token_rows(Side side, uint32_t layer, std::span<const uint32_t> tokens, uint32_t heads,
                              uint32_t head_dim) {
  std::vector<float> rows(tokens.size() * heads * head_dim);
  float* out = rows.data();
  for (const uint32_t token : tokens) {
    for (uint32_t head = 0; head < heads; ++head, out += head_dim) {
      std::copy_n(vector_of(side, layer, token, head), head_dim, out);
    }
  }
  return rows;
}

std::vector<double> model_attention(const CacheConfig& config, uint32_t layer,
                                    std::span<const uint32_t> tokens, uint64_t window) {
  const uint64_t n = tokens.size();
  const uint64_t first = window != 0 && n > window ? n - window : 0;
  const uint32_t dim = config.head_dim;
  std::vector<double> out(size_t{config.query_heads} * dim, 0.0);
  std::vector<double> scores(n);
  for (uint32_t head = 0; head < config.query_heads; ++head) {
    const uint32_t kv_head = head / config.group();
    const float* q = vector_of(Side::kQuery, layer, tokens.back(), head);
    double most = -INFINITY;
    for (uint64_t t = first; t < n; ++t) {
      const float* k = vector_of(Side::kKey, layer, tokens[t], kv_head);
      double score = 0;
      for (uint32_t c = 0; c < dim; ++c) score += static_cast<double>(q[c]) * static_cast<double>(k[c]);
      scores[t] = score / std::sqrt(static_cast<double>(dim));
      most = std::max(most, scores[t]);
    }
    double sum = 0;
    double* o = out.data() + size_t{head} * dim;
    for (uint64_t t = first; t < n; ++t) {
      const double weight = std::exp(scores[t] - most);
      const float* v = vector_of(Side::kValue, layer, tokens[t], kv_head);
      for (uint32_t c = 0; c < dim; ++c) o[c] += weight * static_cast<double>(v[c]);
      sum += weight;
    }
    for (uint32_t c = 0; c < dim; ++c) o[c] /= sum;
  }
  return out;
}

double relative_error(std::span<const float> a, std::span<const double> b) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace quire::testing
