// A model folder, loaded: config, weights and tokenizer of one Qwen3.
// Thread safety: const after loading.
#pragma once

#include <filesystem>
#include <string>

#include "bench/qwen3/config.h"
#include "bench/qwen3/tokenizer.h"
#include "bench/qwen3/weights.h"

namespace quire::qwen3 {

struct Model {
  std::string name;  // the folder's last part
  ModelConfig config;
  Weights weights;
  Tokenizer tokenizer;
};

// Reads config.json, the safetensors and tokenizer.json of a folder. Throws Error when one is missing or bad.
Model load_model(const std::filesystem::path& folder);

}  // namespace quire::qwen3
