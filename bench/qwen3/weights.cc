#include "bench/qwen3/weights.h"

#include <initializer_list>
#include <string>

namespace quire::qwen3 {
namespace {

std::vector<float> load_vector(const TensorFiles& files, const std::string& name, uint32_t size) {
  return to_f32(files.find(name, {size}));
}

struct Part {
  std::string name;
  uint32_t rows;
};

// Stacks the rows of several tensors [rows, cols].
Matrix load_matrix(const TensorFiles& files, std::initializer_list<Part> parts, uint32_t cols) {
  Matrix matrix;
  matrix.cols = cols;
  for (const Part& part : parts) matrix.rows += part.rows;
  matrix.values.resize(size_t{matrix.rows} * cols);
  std::span<uint16_t> rest = matrix.values;
  for (const Part& part : parts) {
    const TensorView& tensor = files.find(part.name, {part.rows, cols});
    to_bf16(tensor, rest.first(size_t{part.rows} * cols));
    rest = rest.subspan(size_t{part.rows} * cols);
    forget_mapped(tensor.bytes);  // so that loading does not hold the model twice
  }
  return matrix;
}

LayerWeights load_layer(const TensorFiles& files, const ModelConfig& config, uint32_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const uint32_t hidden = config.hidden_size;
  LayerWeights out;
  out.input_norm = load_vector(files, prefix + "input_layernorm.weight", hidden);
  out.query_norm = load_vector(files, attention + "q_norm.weight", config.head_dim);
  out.key_norm = load_vector(files, attention + "k_norm.weight", config.head_dim);
  out.post_attention_norm = load_vector(files, prefix + "post_attention_layernorm.weight", hidden);
  out.qkv = load_matrix(files,
                        {{attention + "q_proj.weight", config.query_size()},
                         {attention + "k_proj.weight", config.kv_size()},
                         {attention + "v_proj.weight", config.kv_size()}},
                        hidden);
  out.output = load_matrix(files, {{attention + "o_proj.weight", hidden}}, config.query_size());
  out.gate_up = load_matrix(files,
                            {{mlp + "gate_proj.weight", config.intermediate_size},
                             {mlp + "up_proj.weight", config.intermediate_size}},
                            hidden);
  out.down = load_matrix(files, {{mlp + "down_proj.weight", hidden}}, config.intermediate_size);
  return out;
}

}  // namespace

Weights load_weights(const TensorFiles& files, const ModelConfig& config) {
  Weights weights;
  weights.embedding =
      load_matrix(files, {{"model.embed_tokens.weight", config.vocab_size}}, config.hidden_size);
  for (uint32_t layer = 0; layer < config.layers; ++layer) {
    weights.layers.push_back(load_layer(files, config, layer));
  }
  weights.final_norm = load_vector(files, "model.norm.weight", config.hidden_size);
  if (!config.tied_embeddings) {
    weights.head = load_matrix(files, {{"lm_head.weight", config.vocab_size}}, config.hidden_size);
  }
  return weights;
}

}  // namespace quire::qwen3
