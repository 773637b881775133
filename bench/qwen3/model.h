// A model, loaded: config, weights and tokenizer.
// Thread safety: const after loading.
#pragma once

#include <filesystem>
#include <string>

#include "bench/qwen3/config.h"
#include "bench/qwen3/tokenizer.h"
#include "bench/qwen3/weights.h"

namespace quire::qwen3 {

struct Model {
  std::string name;  // the folder's last part, or the file's without its ending
  ModelConfig config;
  Weights weights;
  Tokenizer tokenizer;
};

// Reads config.json, the safetensors and tokenizer.json of a folder, or a .gguf file, which holds all of it.
// Throws Error when one is missing or bad.
Model load_model(const std::filesystem::path& path);

}  // namespace quire::qwen3
