// What the metadata of a GGUF file says about a model.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
// Thread safety: pure functions.
#pragma once

#include <string>

#include "bench/qwen3/config.h"
#include "bench/qwen3/gguf.h"

namespace quire::qwen3 {

// Throws Error for a missing key, a value out of range or a model that is not implemented. `name` stands for
// the file in messages.
ModelConfig gguf_config(const Gguf& gguf, const std::string& name);

}  // namespace quire::qwen3
