// What a dense model of the Qwen3, Qwen2 or Llama family is made of, and how config.json and
// generation_config.json say it.
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quire::qwen3 {

// What is accepted at most: far above any model, low enough that products of two sizes fit into 64 bits.
inline constexpr uint64_t kMaxModelSize = uint64_t{1} << 24;
inline constexpr uint64_t kMaxLayers = 4096;
inline constexpr uint64_t kMaxHeads = 4096;
inline constexpr uint64_t kMaxHeadDim = 256;
inline constexpr uint64_t kMaxPositions = uint64_t{1} << 32;

enum class RopeType { kDefault, kLinear, kDynamic, kYarn, kLlama3 };

// The rope settings as transformers names them. Fields a type does not use keep their defaults.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 0;
  double factor = 1;
  uint64_t original_positions = 0;  // yarn, llama3: original_max_position_embeddings
  std::optional<double> attention_factor = std::nullopt;
  double beta_fast = 32;  // yarn
  double beta_slow = 1;
  std::optional<double> mscale = std::nullopt;
  std::optional<double> mscale_all_dim = std::nullopt;
  bool truncate = true;
  double low_freq_factor = 1;  // llama3
  double high_freq_factor = 4;
};

// How the blocks of the families differ.
struct Family {
  std::string_view name;  // model_type of config.json, general.architecture of GGUF
  bool head_norms;        // q_norm and k_norm before RoPE
  bool qkv_bias;
};

// Throws Error for a family that is not implemented. `what` stands for where the name was found.
const Family& family_named(const std::string& name, const std::string& what);

struct ModelConfig {
  Family family;
  uint32_t vocab_size;
  uint32_t hidden_size;
  uint32_t intermediate_size;
  uint32_t layers;
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint64_t max_positions;
  float rms_norm_eps;
  bool tied_embeddings;
  std::vector<int32_t> eos_tokens;  // may be empty
  RopeConfig rope;

  uint32_t query_size() const { return query_heads * head_dim; }
  uint32_t kv_size() const { return kv_heads * head_dim; }
};

// Throws Error for heads that the cache cannot hold.
void check_geometry(const ModelConfig& model, const std::string& name);

// Throws Error for a missing key, a value out of range or a model that is not implemented. Rope settings are
// read from rope_parameters or from rope_theta + rope_scaling. `name` stands for the file in messages.
ModelConfig parse_config(const nlohmann::json& config, const std::string& name);

// Reads folder/config.json and, for the end-of-text tokens, folder/generation_config.json where it exists.
ModelConfig read_config(const std::filesystem::path& folder);

}  // namespace quire::qwen3
