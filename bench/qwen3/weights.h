// The weights of a dense model, in bf16 as they are multiplied. Products that share their input are one
// matrix. Other formats are rounded to bf16.
// Invariant: every shape is what the config asks for. Thread safety: const after construction.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/qwen3/config.h"
#include "bench/qwen3/matrix.h"
#include "bench/qwen3/safetensors.h"

namespace quire::qwen3 {

struct LayerWeights {
  std::vector<float> input_norm;           // [hidden]
  std::vector<float> query_norm;           // [head_dim], empty in families without head norms
  std::vector<float> key_norm;             // the same
  std::vector<float> post_attention_norm;  // [hidden]
  Matrix qkv;                              // queries, keys, values: [(H + 2 H_kv) * D, hidden]
  std::vector<float> qkv_bias;             // [(H + 2 H_kv) * D], empty in families without
  Matrix output;                           // [hidden, H * D]
  Matrix gate_up;                          // gate, up: [2 * intermediate, hidden]
  Matrix down;                             // [hidden, intermediate]
};

struct Weights {
  Matrix embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  Matrix head;                    // [vocab, hidden]; empty when the embeddings are tied
};

// Where a model's tensors come from. They go by the names that Hugging Face gives them, and lie as its
// implementation multiplies them. Every call throws Error for a tensor that is missing or has another shape.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual std::vector<float> read_vector(const std::string& tensor, uint32_t size) const = 0;
  // That it is there and has this shape, before memory is taken for it.
  virtual void check_matrix(const std::string& tensor, uint32_t rows, uint32_t cols) const = 0;
  // out [rows][cols], bf16.
  virtual void read_matrix(const std::string& tensor, uint32_t rows, uint32_t cols,
                           std::span<uint16_t> out) const = 0;
};

Weights load_weights(const WeightSource& source, const ModelConfig& config);
// The same from safetensors.
Weights load_weights(const TensorFiles& files, const ModelConfig& config);

}  // namespace quire::qwen3
