#include "bench/qwen3/config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::qwen3 {
namespace {

// Far above any model, low enough that products of two sizes fit into 64 bits.
constexpr uint64_t kMaxSize = uint64_t{1} << 24;
constexpr uint64_t kMaxPositions = uint64_t{1} << 32;

RopeType parse_rope_type(const JsonObject& rope) {
  struct Name {
    std::string_view name;
    RopeType type;
  };
  static constexpr std::array<Name, 5> kNames{{{"default", RopeType::kDefault},
                                               {"linear", RopeType::kLinear},
                                               {"dynamic", RopeType::kDynamic},
                                               {"yarn", RopeType::kYarn},
                                               {"llama3", RopeType::kLlama3}}};
  // Old files say "type", newer ones "rope_type".
  const std::string type = rope.string("rope_type", rope.string("type", "default"));
  for (const Name& known : kNames) {
    if (known.name == type) return known.type;
  }
  throw Error(rope.name + ": rope type \"" + type +
              "\" is unknown; default, linear, dynamic, yarn and llama3 are implemented");
}

std::optional<double> optional_positive(const JsonObject& object, const char* key) {
  return object.find(key) == nullptr ? std::nullopt : std::optional(object.positive(key));
}

RopeConfig parse_rope_scaling(const JsonObject& rope, double theta, uint64_t max_positions) {
  RopeConfig out;
  out.type = parse_rope_type(rope);
  out.theta = theta;
  out.original_positions = rope.find("original_max_position_embeddings") == nullptr
                               ? max_positions
                               : rope.integer("original_max_position_embeddings", 1, kMaxPositions);
  if (out.type == RopeType::kDefault) return out;
  out.factor = rope.positive("factor");
  if (out.type == RopeType::kLlama3) {
    out.low_freq_factor = rope.positive("low_freq_factor");
    out.high_freq_factor = rope.positive("high_freq_factor");
    if (out.high_freq_factor <= out.low_freq_factor) {
      throw Error(rope.name + ": high_freq_factor must be above low_freq_factor");
    }
  }
  if (out.type == RopeType::kYarn) {
    out.attention_factor = optional_positive(rope, "attention_factor");
    out.beta_fast = rope.positive("beta_fast", out.beta_fast);
    out.beta_slow = rope.positive("beta_slow", out.beta_slow);
    out.mscale = optional_positive(rope, "mscale");
    out.mscale_all_dim = optional_positive(rope, "mscale_all_dim");
    out.truncate = rope.boolean("truncate", true);
  }
  return out;
}

RopeConfig parse_rope(const JsonObject& config, uint64_t max_positions) {
  if (config.find("rope_parameters") != nullptr) {
    const JsonObject rope = config.object("rope_parameters");
    const double theta = rope.positive("rope_theta");
    return parse_rope_scaling(rope, theta, max_positions);
  }
  const double theta = config.positive("rope_theta");
  if (config.find("rope_scaling") != nullptr) {
    return parse_rope_scaling(config.object("rope_scaling"), theta, max_positions);
  }
  RopeConfig rope;
  rope.theta = theta;
  rope.original_positions = max_positions;
  return rope;
}

// One id, a list of ids, or nothing.
std::vector<int32_t> parse_eos(const JsonObject& config, uint32_t vocab_size) {
  const nlohmann::json* eos = config.find("eos_token_id");
  if (eos == nullptr) return {};
  const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
  std::vector<int32_t> ids;
  for (const nlohmann::json& id : list) {
    const std::optional<uint64_t> number = as_unsigned(id);
    if (!number || *number >= vocab_size) {
      throw Error(config.name + ": eos_token_id holds " + id.dump() + ", which is no token of the model");
    }
    ids.push_back(static_cast<int32_t>(*number));
  }
  return ids;
}

void check_is_dense_qwen3(const JsonObject& config) {
  const std::string type = config.string("model_type");
  if (type != "qwen3") {
    throw Error(config.name + ": model_type is \"" + type +
                "\"; only dense Qwen3 (\"qwen3\") is implemented");
  }
  if (const std::string act = config.string("hidden_act", "silu"); act != "silu") {
    throw Error(config.name + ": hidden_act is \"" + act + "\"; only silu is implemented");
  }
  if (config.boolean("attention_bias", false)) {
    throw Error(config.name + ": attention_bias is set; Qwen3 without biases is implemented");
  }
  if (config.boolean("use_sliding_window", false)) {
    throw Error(config.name + ": use_sliding_window is set; Qwen3 with full attention is implemented");
  }
}

void check_geometry(const ModelConfig& model, const std::string& name) {
  if (model.query_heads % model.kv_heads != 0 || model.query_heads / model.kv_heads > 16) {
    throw Error(name + ": num_attention_heads must be 1 to 16 times num_key_value_heads, it is " +
                std::to_string(model.query_heads) + " for " + std::to_string(model.kv_heads));
  }
  if (model.head_dim % 32 != 0) {
    throw Error(name + ": head_dim is " + std::to_string(model.head_dim) + ", not a multiple of 32");
  }
}

}  // namespace

ModelConfig parse_config(const nlohmann::json& json, const std::string& name) {
  const JsonObject config{json, name};
  check_is_dense_qwen3(config);
  const auto size = [&](const char* key, uint64_t high) {
    return static_cast<uint32_t>(config.integer(key, 1, high));
  };
  ModelConfig model{};
  model.vocab_size = size("vocab_size", kMaxSize);
  model.hidden_size = size("hidden_size", kMaxSize);
  model.intermediate_size = size("intermediate_size", kMaxSize);
  model.layers = size("num_hidden_layers", 4096);
  model.query_heads = size("num_attention_heads", 4096);
  model.kv_heads = size("num_key_value_heads", 4096);
  model.head_dim = size("head_dim", 256);
  model.max_positions = config.integer("max_position_embeddings", 1, kMaxPositions);
  model.rms_norm_eps = static_cast<float>(config.positive("rms_norm_eps"));
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  model.eos_tokens = parse_eos(config, model.vocab_size);
  model.rope = parse_rope(config, model.max_positions);
  check_geometry(model, name);
  return model;
}

ModelConfig read_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  ModelConfig model = parse_config(read_json(path), path.string());
  const auto generation_path = folder / "generation_config.json";
  if (std::filesystem::exists(generation_path)) {
    const nlohmann::json generation = read_json(generation_path);
    std::vector<int32_t> eos = parse_eos({generation, generation_path.string()}, model.vocab_size);
    if (!eos.empty()) model.eos_tokens = std::move(eos);
  }
  return model;
}

}  // namespace quire::qwen3
