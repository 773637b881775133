// The tiny model and what Hugging Face transformers computes with it (tests/models/README.md).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "bench/qwen3/attention.h"
#include "bench/qwen3/model.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {

inline constexpr float kTolerance = 2e-4f;  // of the largest value, see tests/models/README.md

inline const Model& tiny() {
  static const Model model = load_model(tiny_model());
  return model;
}

class Reference {
 public:
  Reference() : files_(tiny_model() / "reference.safetensors") {}
  std::vector<float> floats(const std::string& name) const { return to_f32(files_.find(name)); }
  std::vector<int32_t> tokens(const std::string& name) const {
    const std::vector<int64_t> ids = to_i64(files_.find(name));
    return {ids.begin(), ids.end()};
  }
  const std::vector<uint64_t>& shape(const std::string& name) const { return files_.find(name).shape; }

 private:
  TensorFiles files_;
};

inline void expect_near(std::span<const float> actual, const std::vector<float>& expected, float tolerance,
                        const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  float high = 0;
  float error = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    high = std::max(high, std::abs(expected[i]));
    ASSERT_TRUE(std::isfinite(actual[i])) << what << " at " << i;
    error = std::max(error, std::abs(actual[i] - expected[i]));
  }
  EXPECT_LE(error, tolerance * high) << what;
}

// Keeps every activation under the name it has in reference.safetensors.
class Recorder : public Observer {
 public:
  explicit Recorder(const ModelConfig& config) : config_(config) {}

  void on_hidden(uint32_t layer, std::span<const float> rows) override {
    record["hidden" + std::to_string(layer)].assign(rows.begin(), rows.end());
  }
  void on_qkv(uint32_t layer, std::span<const float> rows) override {
    const std::string prefix = "layer" + std::to_string(layer) + ".";
    const uint32_t h = config_.query_heads;
    record[prefix + "q_normed"] = heads(rows, 0, h);
    record[prefix + "k_normed"] = heads(rows, h, config_.kv_heads);
    const size_t stride = config_.query_size() + 2 * size_t{config_.kv_size()};
    for (size_t row = 0; row < rows.size() / stride; ++row) {
      const auto values = rows.subspan((row + 1) * stride - config_.kv_size(), config_.kv_size());
      auto& out = record[prefix + "v"];
      out.insert(out.end(), values.begin(), values.end());
    }
  }
  void on_attention(uint32_t layer, std::span<const float> rows) override {
    record["layer" + std::to_string(layer) + ".attn_out"].assign(rows.begin(), rows.end());
  }

  std::map<std::string, std::vector<float>> record;

 private:
  // [tokens][heads][dim] to [heads][tokens][dim].
  std::vector<float> heads(std::span<const float> rows, uint32_t first, uint32_t count) const {
    const size_t stride = config_.query_size() + 2 * size_t{config_.kv_size()};
    std::vector<float> out;
    for (uint32_t head = first; head < first + count; ++head) {
      for (size_t row = 0; row < rows.size() / stride; ++row) {
        const auto values = rows.subspan(row * stride + size_t{head} * config_.head_dim, config_.head_dim);
        out.insert(out.end(), values.begin(), values.end());
      }
    }
    return out;
  }

  const ModelConfig& config_;
};

}  // namespace quire::qwen3
