// How GGUF tensors hold numbers: in blocks of one row's consecutive values that share a scale.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md names the types; their layouts are ggml's.
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace quire::qwen3 {

struct BlockType {
  uint32_t id;  // as in the file
  std::string_view name;
  uint32_t values;  // of one block
  uint32_t bytes;
  void (*unfold)(const std::byte* block, float* out);
};

// nullptr for a type that cannot be read.
const BlockType* find_block_type(uint32_t id);

// blocks: whole ones; out: as many values as they hold.
void unfold(const BlockType& type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace quire::qwen3
