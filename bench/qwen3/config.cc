#include "bench/qwen3/config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::qwen3 {
namespace {

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
      throw Error(config.name + ": eos_token_id holds " + text_of(id) + ", which is no token of the model");
    }
    ids.push_back(static_cast<int32_t>(*number));
  }
  return ids;
}

void check_is_implemented(const JsonObject& config) {
  if (const std::string act = config.string("hidden_act", "silu"); act != "silu") {
    throw Error(config.name + ": hidden_act is \"" + act + "\"; only silu is implemented");
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (!config.boolean(key, false)) continue;
    throw Error(config.name + ": " + key + " is set; no biases but Qwen2's own are implemented");
  }
  if (config.boolean("use_sliding_window", false)) {
    throw Error(config.name + ": use_sliding_window is set; only full attention is implemented");
  }
}

// Qwen3 always says it; the others may leave it to the hidden size.
uint32_t parse_head_dim(const JsonObject& config, const ModelConfig& model) {
  if (config.find("head_dim") != nullptr || model.family.head_norms) {
    return static_cast<uint32_t>(config.integer("head_dim", 1, kMaxHeadDim));
  }
  return model.hidden_size / model.query_heads;
}

}  // namespace

const Family& family_named(const std::string& name, const std::string& what) {
  static constexpr std::array<Family, 3> kFamilies{
      {{"qwen3", true, false}, {"qwen2", false, true}, {"llama", false, false}}};
  for (const Family& family : kFamilies) {
    if (family.name == name) return family;
  }
  throw Error(what + " is \"" + name + "\"; dense qwen3, qwen2 and llama are implemented");
}

void check_geometry(const ModelConfig& model, const std::string& name) {
  if (model.query_heads % model.kv_heads != 0 || model.query_heads / model.kv_heads > 16) {
    throw Error(name + ": num_attention_heads must be 1 to 16 times num_key_value_heads, it is " +
                std::to_string(model.query_heads) + " for " + std::to_string(model.kv_heads));
  }
  if (model.head_dim == 0 || model.head_dim % 32 != 0 || model.head_dim > kMaxHeadDim) {
    throw Error(name + ": the heads have " + std::to_string(model.head_dim) +
                " channels, not a multiple of 32 up to " + std::to_string(kMaxHeadDim));
  }
}

ModelConfig parse_config(const nlohmann::json& json, const std::string& name) {
  const JsonObject config{json, name};
  check_is_implemented(config);
  const auto size = [&](const char* key, uint64_t high) {
    return static_cast<uint32_t>(config.integer(key, 1, high));
  };
  ModelConfig model{};
  model.family = family_named(config.string("model_type"), name + ": model_type");
  model.vocab_size = size("vocab_size", kMaxModelSize);
  model.hidden_size = size("hidden_size", kMaxModelSize);
  model.intermediate_size = size("intermediate_size", kMaxModelSize);
  model.layers = size("num_hidden_layers", kMaxLayers);
  model.query_heads = size("num_attention_heads", kMaxHeads);
  model.kv_heads = size("num_key_value_heads", kMaxHeads);
  model.head_dim = parse_head_dim(config, model);
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
