// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// https://github.com/huggingface/safetensors#format
//
// Nothing in a file is trusted: every length, shape and offset is checked before it is used.
// Thread safety: const calls from anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/qwen3/mapped_file.h"

namespace quire::qwen3 {

enum class Dtype { kF32, kF16, kBf16, kI64, kI32 };

// A tensor inside somebody else's memory. bytes.size() is the shape's product times the dtype's size.
struct TensorView {
  Dtype dtype;
  std::vector<uint64_t> shape;
  std::span<const std::byte> bytes;
};

using TensorMap = std::map<std::string, TensorView, std::less<>>;

// "[2, 3]", for messages.
std::string shape_text(const std::vector<uint64_t>& shape);

// The tensors of one file's bytes; `name` stands for the file in messages. Throws Error on any fault:
// truncation, bad JSON, unknown dtype, offsets that overlap, leave a hole or disagree with the shape.
TensorMap parse_safetensors(std::span<const std::byte> file, const std::string& name);

// All tensors of a model: a .safetensors file, or a folder that holds model.safetensors or
// model.safetensors.index.json with its shards.
class TensorFiles {
 public:
  explicit TensorFiles(const std::filesystem::path& path);

  const std::string& name() const { return name_; }
  bool contains(std::string_view tensor) const { return tensors_.contains(tensor); }

  // Throws Error when there is no such tensor, or one of another shape.
  const TensorView& find(std::string_view tensor) const;
  const TensorView& find(std::string_view tensor, const std::vector<uint64_t>& shape) const;

 private:
  void add_file(const std::filesystem::path& path);
  void add_shards(const std::filesystem::path& index);

  std::string name_;
  std::vector<MappedFile> files_;
  TensorMap tensors_;
};

// The values of a floating point tensor (F32, F16, BF16); throws Error for an integer one.
std::vector<float> to_f32(const TensorView& tensor);
void to_bf16(const TensorView& tensor, std::span<uint16_t> out);
// The values of an integer tensor (I64, I32).
std::vector<int64_t> to_i64(const TensorView& tensor);

}  // namespace quire::qwen3
