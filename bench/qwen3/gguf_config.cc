#include "bench/qwen3/gguf_config.h"

#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::qwen3 {
namespace {

// Metadata whose keys begin with the architecture's name.
class Keys {
 public:
  Keys(JsonObject metadata, const std::string& architecture)
      : metadata_(std::move(metadata)), prefix_(architecture + ".") {}

  bool has(const std::string& key) const { return metadata_.find((prefix_ + key).c_str()) != nullptr; }
  uint64_t integer(const std::string& key, uint64_t high) const {
    return metadata_.integer((prefix_ + key).c_str(), 1, high);
  }
  uint32_t size(const std::string& key, uint64_t high = kMaxModelSize) const {
    return static_cast<uint32_t>(integer(key, high));
  }
  double positive(const std::string& key) const { return metadata_.positive((prefix_ + key).c_str()); }
  std::string string(const std::string& key, const std::string& fallback) const {
    return metadata_.string((prefix_ + key).c_str(), fallback);
  }

  [[noreturn]] void refuse(const std::string& key) const {
    throw Error(metadata_.name + " sets " + prefix_ + key + ", which is not implemented");
  }

 private:
  JsonObject metadata_;
  std::string prefix_;
};

uint32_t head_dim_of(const Keys& keys, const ModelConfig& model) {
  const std::string key = "attention.key_length";
  const uint32_t head_dim =
      keys.has(key) ? keys.size(key, kMaxHeadDim) : model.hidden_size / model.query_heads;
  for (const char* same : {"attention.value_length", "rope.dimension_count"}) {
    if (keys.has(same) && keys.size(same) != head_dim) keys.refuse(same);
  }
  return head_dim;
}

RopeConfig rope_of(const Keys& keys, uint64_t max_positions) {
  RopeConfig rope;
  rope.theta = keys.positive("rope.freq_base");
  rope.original_positions = max_positions;
  const std::string scaling = keys.string("rope.scaling.type", "none");
  if (scaling == "linear") {
    rope.type = RopeType::kLinear;
    rope.factor = keys.positive("rope.scaling.factor");
  } else if (scaling != "none") {
    keys.refuse("rope.scaling.type to \"" + scaling + "\"");
  }
  return rope;
}

std::vector<int32_t> eos_of(const JsonObject& metadata, uint32_t vocab_size) {
  std::vector<int32_t> eos;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (metadata.find(key) == nullptr) continue;
    eos.push_back(static_cast<int32_t>(metadata.integer(key, 0, vocab_size - 1)));
  }
  return eos;
}

uint32_t vocab_size_of(const Gguf& gguf, const std::string& name) {
  const auto embedding = gguf.tensors.find("token_embd.weight");
  if (embedding == gguf.tensors.end()) {
    throw Error(name + " lacks tensor token_embd.weight; is the model complete?");
  }
  const std::vector<uint64_t>& shape = embedding->second.shape;
  if (shape.size() != 2 || shape[0] == 0 || shape[0] > kMaxModelSize) {
    throw Error(name + ": tensor token_embd.weight is no table of 1 to " + std::to_string(kMaxModelSize) +
                " tokens");
  }
  return static_cast<uint32_t>(shape[0]);
}

}  // namespace

ModelConfig gguf_config(const Gguf& gguf, const std::string& name) {
  const JsonObject metadata{gguf.metadata, name};
  const std::string architecture = metadata.string("general.architecture");
  ModelConfig model{};
  model.family = family_named(architecture, name + ": general.architecture");
  const Keys keys(metadata, architecture);
  for (const char* key : {"expert_count", "attention.sliding_window", "rope.scale_linear"}) {
    if (keys.has(key)) keys.refuse(key);
  }
  model.vocab_size = vocab_size_of(gguf, name);
  model.hidden_size = keys.size("embedding_length");
  model.intermediate_size = keys.size("feed_forward_length");
  model.layers = keys.size("block_count", kMaxLayers);
  model.query_heads = keys.size("attention.head_count", kMaxHeads);
  model.kv_heads = keys.has("attention.head_count_kv") ? keys.size("attention.head_count_kv", kMaxHeads)
                                                       : model.query_heads;
  model.head_dim = head_dim_of(keys, model);
  model.max_positions = keys.integer("context_length", kMaxPositions);
  model.rms_norm_eps = static_cast<float>(keys.positive("attention.layer_norm_rms_epsilon"));
  model.tied_embeddings = !gguf.tensors.contains("output.weight");
  model.eos_tokens = eos_of(metadata, model.vocab_size);
  model.rope = rope_of(keys, model.max_positions);
  check_geometry(model, name);
  return model;
}

}  // namespace quire::qwen3
