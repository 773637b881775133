#include "bench/qwen3/gguf.h"

#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

static_assert(std::endian::native == std::endian::little, "GGUF files are little endian");

namespace quire::qwen3 {
namespace {

using nlohmann::json;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr uint32_t kMaxDimensions = 4;  // ggml's own limit

// The types of metadata values, numbered as in the file.
enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Reads the header from front to back; every step past the end is an Error.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  size_t position() const { return at_; }
  const std::string& name() const { return name_; }

  std::span<const std::byte> take(uint64_t size) {
    if (size > file_.size() - at_) {
      throw Error(name_ + " is truncated or damaged: its header asks for " + std::to_string(size) +
                  " bytes at byte " + std::to_string(at_) + " of " + std::to_string(file_.size()) +
                  "; fetch it again");
    }
    at_ += size;
    return file_.subspan(at_ - size, size);
  }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string string() {
    const auto bytes = take(number<uint64_t>());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> file_;
  const std::string& name_;
  size_t at_ = 0;
};

json read_scalar(Cursor& in, uint32_t type, const std::string& key) {
  switch (type) {
    case kU8:
      return in.number<uint8_t>();
    case kI8:
      return in.number<int8_t>();
    case kU16:
      return in.number<uint16_t>();
    case kI16:
      return in.number<int16_t>();
    case kU32:
      return in.number<uint32_t>();
    case kI32:
      return in.number<int32_t>();
    case kF32:
      return in.number<float>();
    case kBool:
      return in.number<uint8_t>() != 0;
    case kString:
      return in.string();
    case kU64:
      return in.number<uint64_t>();
    case kI64:
      return in.number<int64_t>();
    case kF64:
      return in.number<double>();
    default:
      throw Error(in.name() + ": \"" + key + "\" has a value of type " + std::to_string(type) +
                  ", which GGUF does not define; the file is damaged, fetch it again");
  }
}

json read_value(Cursor& in, const std::string& key) {
  const auto type = in.number<uint32_t>();
  if (type != kArray) return read_scalar(in, type, key);
  const auto item_type = in.number<uint32_t>();
  json list = json::array();
  // Every item takes bytes, so a count that the file cannot hold ends at the end of the file.
  for (auto left = in.number<uint64_t>(); left > 0; --left) list.push_back(read_scalar(in, item_type, key));
  return list;
}

json read_metadata(Cursor& in, uint64_t count) {
  json metadata = json::object();
  for (; count > 0; --count) {
    std::string key = in.string();
    json value = read_value(in, key);
    if (!metadata.emplace(key, std::move(value)).second) {
      throw Error(in.name() + ": the key \"" + key + "\" comes twice; the file is damaged, fetch it again");
    }
  }
  return metadata;
}

uint64_t alignment_of(const json& metadata, const std::string& name) {
  const JsonObject object{metadata, name};
  if (object.find("general.alignment") == nullptr) return kDefaultAlignment;
  const uint64_t alignment = object.integer("general.alignment", 1, kMaxAlignment);
  if (!std::has_single_bit(alignment)) {
    throw Error(name + ": \"general.alignment\" is " + std::to_string(alignment) + ", not a power of two");
  }
  return alignment;
}

std::vector<uint64_t> read_shape(Cursor& in, const std::string& tensor) {
  const auto dimensions = in.number<uint32_t>();
  if (dimensions > kMaxDimensions) {
    throw Error(tensor + " has " + std::to_string(dimensions) + " dimensions; GGUF has at most " +
                std::to_string(kMaxDimensions));
  }
  std::vector<uint64_t> shape(dimensions);
  for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) *dim = in.number<uint64_t>();
  return shape;
}

const BlockType& read_type(Cursor& in, const std::string& tensor) {
  const auto id = in.number<uint32_t>();
  if (const BlockType* type = find_block_type(id)) return *type;
  throw Error(tensor + " has type " + std::to_string(id) +
              " of ggml; F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K can be read");
}

// Bytes of a tensor; blocks do not reach over the end of a row.
uint64_t byte_size(const std::vector<uint64_t>& shape, const BlockType& type, const std::string& tensor) {
  const uint64_t columns = shape.empty() ? 1 : shape.back();
  if (columns % type.values != 0) {
    throw Error(tensor + " has rows of " + std::to_string(columns) + " values, which no blocks of " +
                std::string(type.name) + " hold");
  }
  uint64_t bytes = columns / type.values;
  bool fits = !__builtin_mul_overflow(bytes, uint64_t{type.bytes}, &bytes);
  for (size_t i = 0; i + 1 < shape.size(); ++i)
    fits = fits && !__builtin_mul_overflow(bytes, shape[i], &bytes);
  if (!fits) throw Error(tensor + ": the shape overflows 64 bits");
  return bytes;
}

struct TensorEntry {
  std::string key;
  GgufTensor tensor;
  uint64_t bytes;
  uint64_t offset;  // in the data
};

TensorEntry read_entry(Cursor& in) {
  TensorEntry entry;
  entry.key = in.string();
  const std::string tensor = in.name() + ": tensor " + entry.key;
  entry.tensor.shape = read_shape(in, tensor);
  entry.tensor.type = &read_type(in, tensor);
  entry.bytes = byte_size(entry.tensor.shape, *entry.tensor.type, tensor);
  entry.offset = in.number<uint64_t>();
  return entry;
}

}  // namespace

Gguf parse_gguf(std::span<const std::byte> file, const std::string& name) {
  Cursor in(file, name);
  if (file.size() < sizeof kMagic || in.number<uint32_t>() != kMagic) {
    throw Error(name + " is no GGUF file: it does not begin with \"GGUF\"");
  }
  const auto version = in.number<uint32_t>();
  if (version != 2 && version != 3) {
    throw Error(name + " is GGUF version " + std::to_string(version) + "; versions 2 and 3 can be read");
  }
  const auto tensor_count = in.number<uint64_t>();
  const auto key_count = in.number<uint64_t>();
  Gguf gguf{read_metadata(in, key_count), {}};
  const uint64_t alignment = alignment_of(gguf.metadata, name);
  std::vector<TensorEntry> entries;
  for (uint64_t i = 0; i < tensor_count; ++i) entries.push_back(read_entry(in));

  const auto aligned = [&](uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
  uint64_t next = aligned(in.position());
  const uint64_t data = next;
  for (TensorEntry& entry : entries) {
    const std::string tensor = name + ": tensor " + entry.key;
    if (entry.offset != next - data) {
      throw Error(tensor + " does not follow the one before it; the file is damaged, fetch it again");
    }
    if (next > file.size() || entry.bytes > file.size() - next) {
      throw Error(tensor + " reaches beyond the end of the file; it is truncated, fetch it again");
    }
    entry.tensor.bytes = file.subspan(next, entry.bytes);
    next = aligned(next + entry.bytes);
    if (!gguf.tensors.emplace(std::move(entry.key), std::move(entry.tensor)).second) {
      throw Error(tensor + " comes twice; the file is damaged, fetch it again");
    }
  }
  return gguf;
}

}  // namespace quire::qwen3
