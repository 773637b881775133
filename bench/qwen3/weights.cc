#include "bench/qwen3/weights.h"

#include <initializer_list>
#include <string>

namespace quire::qwen3 {
namespace {

class SafetensorsSource : public WeightSource {
 public:
  explicit SafetensorsSource(const TensorFiles& files) : files_(files) {}

  std::vector<float> read_vector(const std::string& tensor, uint32_t size) const override {
    return to_f32(files_.find(tensor, {size}));
  }

  void check_matrix(const std::string& tensor, uint32_t rows, uint32_t cols) const override {
    (void)files_.find(tensor, {rows, cols});
  }

  void read_matrix(const std::string& tensor, uint32_t rows, uint32_t cols,
                   std::span<uint16_t> out) const override {
    const TensorView& view = files_.find(tensor, {rows, cols});
    to_bf16(view, out);
    forget_mapped(view.bytes);  // so that loading does not hold the model twice
  }

 private:
  const TensorFiles& files_;
};

struct Part {
  std::string name;
  uint32_t rows;
};

// Stacks the rows of several tensors [rows, cols].
Matrix load_matrix(const WeightSource& source, std::initializer_list<Part> parts, uint32_t cols) {
  Matrix matrix;
  matrix.cols = cols;
  for (const Part& part : parts) {
    source.check_matrix(part.name, part.rows, cols);
    matrix.rows += part.rows;
  }
  matrix.values.resize(size_t{matrix.rows} * cols);
  std::span<uint16_t> rest = matrix.values;
  for (const Part& part : parts) {
    const size_t size = size_t{part.rows} * cols;
    source.read_matrix(part.name, part.rows, cols, rest.first(size));
    rest = rest.subspan(size);
  }
  return matrix;
}

std::vector<float> load_vector(const WeightSource& source, std::initializer_list<Part> parts) {
  std::vector<float> out;
  for (const Part& part : parts) {
    const std::vector<float> values = source.read_vector(part.name, part.rows);
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

LayerWeights load_layer(const WeightSource& source, const ModelConfig& config, uint32_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const uint32_t hidden = config.hidden_size;
  LayerWeights out;
  out.input_norm = source.read_vector(prefix + "input_layernorm.weight", hidden);
  if (config.family.head_norms) {
    out.query_norm = source.read_vector(attention + "q_norm.weight", config.head_dim);
    out.key_norm = source.read_vector(attention + "k_norm.weight", config.head_dim);
  }
  out.post_attention_norm = source.read_vector(prefix + "post_attention_layernorm.weight", hidden);
  out.qkv = load_matrix(source,
                        {{attention + "q_proj.weight", config.query_size()},
                         {attention + "k_proj.weight", config.kv_size()},
                         {attention + "v_proj.weight", config.kv_size()}},
                        hidden);
  if (config.family.qkv_bias) {
    out.qkv_bias = load_vector(source, {{attention + "q_proj.bias", config.query_size()},
                                        {attention + "k_proj.bias", config.kv_size()},
                                        {attention + "v_proj.bias", config.kv_size()}});
  }
  out.output = load_matrix(source, {{attention + "o_proj.weight", hidden}}, config.query_size());
  out.gate_up = load_matrix(source,
                            {{mlp + "gate_proj.weight", config.intermediate_size},
                             {mlp + "up_proj.weight", config.intermediate_size}},
                            hidden);
  out.down = load_matrix(source, {{mlp + "down_proj.weight", hidden}}, config.intermediate_size);
  return out;
}

}  // namespace

Weights load_weights(const WeightSource& source, const ModelConfig& config) {
  Weights weights;
  weights.embedding =
      load_matrix(source, {{"model.embed_tokens.weight", config.vocab_size}}, config.hidden_size);
  for (uint32_t layer = 0; layer < config.layers; ++layer) {
    weights.layers.push_back(load_layer(source, config, layer));
  }
  weights.final_norm = source.read_vector("model.norm.weight", config.hidden_size);
  if (!config.tied_embeddings) {
    weights.head = load_matrix(source, {{"lm_head.weight", config.vocab_size}}, config.hidden_size);
  }
  return weights;
}

Weights load_weights(const TensorFiles& files, const ModelConfig& config) {
  return load_weights(SafetensorsSource(files), config);
}

}  // namespace quire::qwen3
