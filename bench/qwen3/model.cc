#include "bench/qwen3/model.h"

#include "bench/qwen3/error.h"

namespace quire::qwen3 {

Model load_model(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw Error(folder.string() + " is no model folder; give one with config.json and model.safetensors");
  }
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

}  // namespace quire::qwen3
