// The tokenizer inside a GGUF file: byte-level BPE ("gpt2"), split into words as tokenizer.ggml.pre names it.
// Thread safety: pure functions.
#pragma once

#include <string>

#include "bench/qwen3/gguf.h"
#include "bench/qwen3/tokenizer.h"

namespace quire::qwen3 {

// Throws Error for a missing key or a tokenizer that is not implemented. `name` stands for the file in
// messages.
Tokenizer gguf_tokenizer(const Gguf& gguf, const std::string& name);

}  // namespace quire::qwen3
