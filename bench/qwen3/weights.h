// The weights of a dense Qwen3, in bf16 as they are multiplied. Products that share their input are one
// matrix. F16 and F32 checkpoints are rounded to bf16.
// Invariant: every shape is what the config asks for. Thread safety: const after construction.
#pragma once

#include <vector>

#include "bench/qwen3/config.h"
#include "bench/qwen3/matrix.h"
#include "bench/qwen3/safetensors.h"

namespace quire::qwen3 {

struct LayerWeights {
  std::vector<float> input_norm;           // [hidden]
  std::vector<float> query_norm;           // [head_dim]
  std::vector<float> key_norm;             // [head_dim]
  std::vector<float> post_attention_norm;  // [hidden]
  Matrix qkv;                              // queries, keys, values: [(H + 2 H_kv) * D, hidden]
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

// Throws Error for a tensor that is missing or has another shape or a dtype that is no float.
Weights load_weights(const TensorFiles& files, const ModelConfig& config);

}  // namespace quire::qwen3
