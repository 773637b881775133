// The GGUF container: metadata and tensors of a model in one little-endian file.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Nothing in a file is trusted: every count, length, shape and offset is checked before it is used.
// Thread safety: pure functions; a Gguf is const after parsing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "bench/qwen3/gguf_blocks.h"

namespace quire::qwen3 {

// A tensor inside somebody else's memory. bytes.size() is what its blocks take.
struct GgufTensor {
  const BlockType* type;
  std::vector<uint64_t> shape;  // rows before columns: the file has them the other way round
  std::span<const std::byte> bytes;
};

struct Gguf {
  nlohmann::json metadata;  // one object, keys as in the file
  std::map<std::string, GgufTensor, std::less<>> tensors;
};

// `name` stands for the file in messages. Throws Error on any fault: another format or version, truncation, a
// value or tensor of unknown type, a name that comes twice, tensors that do not lie one after another.
Gguf parse_gguf(std::span<const std::byte> file, const std::string& name);

}  // namespace quire::qwen3
