#include "bench/qwen3/model.h"

#include "bench/qwen3/error.h"
#include "bench/qwen3/gguf_model.h"

namespace quire::qwen3 {
namespace {

Model load_model_folder(const std::filesystem::path& folder) {
  ModelConfig config = read_config(folder);
  Tokenizer tokenizer = Tokenizer::read(folder / "tokenizer.json");
  if (tokenizer.size() > config.vocab_size) {
    throw Error(folder.string() + ": tokenizer.json has ids up to " + std::to_string(tokenizer.size() - 1) +
                ", but config.json says vocab_size " + std::to_string(config.vocab_size));
  }
  Weights weights = load_weights(TensorFiles(folder), config);
  const auto path = std::filesystem::weakly_canonical(folder);
  return {path.filename().string(), std::move(config), std::move(weights), std::move(tokenizer)};
}

}  // namespace

Model load_model(const std::filesystem::path& path) {
  if (path.extension() == ".gguf" && !std::filesystem::is_directory(path)) return load_gguf_model(path);
  if (!std::filesystem::is_directory(path)) {
    throw Error(path.string() +
                " is no model; give a folder with config.json and model.safetensors, or a .gguf file");
  }
  return load_model_folder(path);
}

}  // namespace quire::qwen3
