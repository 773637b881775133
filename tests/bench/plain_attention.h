// Causal attention over one contiguous f32 cache, in f64: the independent yardstick of paged attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/attention.h"
#include "bench/qwen3/config.h"

namespace quire::qwen3 {

class PlainAttention : public Attention {
 public:
  explicit PlainAttention(const ModelConfig& config)
      : heads_(config.query_heads),
        kv_heads_(config.kv_heads),
        dim_(config.head_dim),
        keys_(config.layers),
        values_(config.layers) {}

  void append(uint32_t layer, TokenRows keys, TokenRows values) override {
    store(keys, keys_[layer]);
    store(values, values_[layer]);
  }

  void attend(uint32_t layer, TokenRows queries, std::span<float> out) override {
    const size_t length = keys_[layer].size() / (size_t{kv_heads_} * dim_);
    for (uint32_t row = 0; row < queries.count; ++row) {
      const size_t visible = length - queries.count + row + 1;
      for (uint32_t head = 0; head < heads_; ++head) {
        const float* query = queries.data + row * queries.stride + size_t{head} * dim_;
        attend_head(layer, head / (heads_ / kv_heads_), query, visible,
                    out.subspan((size_t{row} * heads_ + head) * dim_, dim_));
      }
    }
  }

 private:
  void store(TokenRows rows, std::vector<float>& to) const {
    for (uint32_t row = 0; row < rows.count; ++row) {
      const float* from = rows.data + row * rows.stride;
      to.insert(to.end(), from, from + size_t{kv_heads_} * dim_);
    }
  }

  void attend_head(uint32_t layer, uint32_t kv_head, const float* query, size_t visible,
                   std::span<float> out) const {
    const auto at = [&](size_t token) { return (token * kv_heads_ + kv_head) * dim_; };
    std::vector<double> scores(visible);
    for (size_t token = 0; token < visible; ++token) {
      const float* key = keys_[layer].data() + at(token);
      for (uint32_t c = 0; c < dim_; ++c) scores[token] += double{query[c]} * key[c];
      scores[token] /= std::sqrt(static_cast<double>(dim_));
    }
    const double high = *std::max_element(scores.begin(), scores.end());
    std::vector<double> sum(dim_);
    double total = 0;
    for (size_t token = 0; token < visible; ++token) {
      const double share = std::exp(scores[token] - high);
      const float* value = values_[layer].data() + at(token);
      for (uint32_t c = 0; c < dim_; ++c) sum[c] += share * value[c];
      total += share;
    }
    for (uint32_t c = 0; c < dim_; ++c) out[c] = static_cast<float>(sum[c] / total);
  }

  uint32_t heads_;
  uint32_t kv_heads_;
  uint32_t dim_;
  std::vector<std::vector<float>> keys_;  // by layer: [tokens][kv_heads][dim]
  std::vector<std::vector<float>> values_;
};

}  // namespace quire::qwen3
