// A GGUF file, loaded: its tensors by the names and in the order that the decoder wants.
// Thread safety: pure functions.
#pragma once

#include <filesystem>

#include "bench/qwen3/model.h"

namespace quire::qwen3 {

// Throws Error when the file is bad or holds what the decoder does not implement, a tensor that it has no use
// for included.
Model load_gguf_model(const std::filesystem::path& path);

}  // namespace quire::qwen3
