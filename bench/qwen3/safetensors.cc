#include "bench/qwen3/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>

#include "bench/qwen3/error.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/json_file.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little endian");

namespace quire::qwen3 {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

struct DtypeName {
  std::string_view name;
  Dtype dtype;
  uint64_t bytes;
};

constexpr std::array<DtypeName, 5> kDtypes{{{"F32", Dtype::kF32, 4},
                                            {"F16", Dtype::kF16, 2},
                                            {"BF16", Dtype::kBf16, 2},
                                            {"I64", Dtype::kI64, 8},
                                            {"I32", Dtype::kI32, 4}}};

const DtypeName& find_dtype(const std::string& dtype, const std::string& tensor) {
  for (const DtypeName& known : kDtypes) {
    if (known.name == dtype) return known;
  }
  throw Error(tensor + " has dtype " + dtype + "; F32, F16, BF16, I64 and I32 can be read");
}

uint64_t unsigned_number(const nlohmann::json& number, const std::string& tensor) {
  if (const std::optional<uint64_t> value = as_unsigned(number)) return *value;
  throw Error(tensor + ": shape or data_offsets holds " + text_of(number) + " where a size must stand");
}

std::vector<uint64_t> parse_shape(const JsonObject& entry) {
  const nlohmann::json& json = entry.at("shape");
  if (!json.is_array()) throw Error(entry.name + ": shape is not an array");
  std::vector<uint64_t> shape;
  for (const nlohmann::json& dim : json) shape.push_back(unsigned_number(dim, entry.name));
  return shape;
}

uint64_t checked_bytes(const std::vector<uint64_t>& shape, uint64_t unit, const std::string& tensor) {
  uint64_t bytes = unit;
  for (const uint64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) throw Error(tensor + ": the shape overflows 64 bits");
  }
  return bytes;
}

TensorView parse_entry(const JsonObject& entry, std::span<const std::byte> data) {
  const DtypeName& dtype = find_dtype(entry.string("dtype"), entry.name);
  std::vector<uint64_t> shape = parse_shape(entry);
  const nlohmann::json& offsets = entry.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2) {
    throw Error(entry.name + ": data_offsets is not a pair");
  }
  const uint64_t begin = unsigned_number(offsets[0], entry.name);
  const uint64_t end = unsigned_number(offsets[1], entry.name);
  if (begin > end || end > data.size()) {
    throw Error(entry.name + " lies at bytes " + std::to_string(begin) + " to " + std::to_string(end) +
                " of " + std::to_string(data.size()) + "; the file is truncated, fetch it again");
  }
  if (checked_bytes(shape, dtype.bytes, entry.name) != end - begin) {
    throw Error(entry.name + ": data_offsets disagree with the shape; the file is damaged, fetch it again");
  }
  return {dtype.dtype, std::move(shape), data.subspan(begin, end - begin)};
}

// The format wants the tensors to cover the data exactly: anything else is a damaged or hostile file.
void check_coverage(const TensorMap& tensors, std::span<const std::byte> data, const std::string& name) {
  std::vector<std::span<const std::byte>> parts;
  for (const auto& [key, tensor] : tensors) {
    if (!tensor.bytes.empty()) parts.push_back(tensor.bytes);
  }
  std::sort(parts.begin(), parts.end(), [](auto a, auto b) { return a.data() < b.data(); });
  const std::byte* expected = data.data();
  for (const auto part : parts) {
    if (part.data() < expected) throw Error(name + ": two tensors overlap; the file is damaged");
    if (part.data() > expected) throw Error(name + ": bytes between tensors belong to none");
    expected = part.data() + part.size();
  }
  if (expected != data.data() + data.size()) {
    throw Error(name + ": bytes after the last tensor belong to none");
  }
}

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T, typename Convert, typename Out>
void convert(const TensorView& tensor, Convert f, Out out) {
  for (size_t i = 0; i < tensor.bytes.size() / sizeof(T); ++i) {
    out[i] = f(load<T>(tensor.bytes.data() + i * sizeof(T)));
  }
}

}  // namespace

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t dim : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dim);
  }
  return text + "]";
}

TensorMap parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  uint64_t header_bytes = 0;
  if (file.size() >= sizeof header_bytes) header_bytes = load<uint64_t>(file.data());
  if (file.size() < sizeof header_bytes || header_bytes > file.size() - sizeof header_bytes) {
    throw Error(name + " is truncated or no safetensors file: it holds " + std::to_string(file.size()) +
                " bytes, less than its header");
  }
  if (header_bytes > kMaxHeaderBytes) throw Error(name + ": its header is larger than 100 MB");
  const std::string_view text(reinterpret_cast<const char*>(file.data() + sizeof header_bytes), header_bytes);
  const nlohmann::json header = parse_json(text, name + " (header)");
  if (!header.is_object()) throw Error(name + ": the header is not a JSON object");
  const auto data = file.subspan(sizeof header_bytes + header_bytes);
  const std::string prefix = name + ": tensor ";
  TensorMap tensors;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") continue;
    tensors.emplace(key, parse_entry({value, prefix + key}, data));
  }
  check_coverage(tensors, data, name);
  return tensors;
}

TensorFiles::TensorFiles(const std::filesystem::path& path) : name_(path.string()) {
  if (!std::filesystem::is_directory(path)) {
    add_file(path);
  } else if (const auto index = path / "model.safetensors.index.json"; std::filesystem::exists(index)) {
    add_shards(index);
  } else {
    add_file(path / "model.safetensors");
  }
}

void TensorFiles::add_file(const std::filesystem::path& path) {
  files_.emplace_back(path);
  for (auto& [key, tensor] : parse_safetensors(files_.back().bytes(), path.string())) {
    if (!tensors_.emplace(key, std::move(tensor)).second) {
      throw Error(path.string() + " holds tensor " + key + ", which another shard holds too");
    }
  }
}

void TensorFiles::add_shards(const std::filesystem::path& index) {
  const nlohmann::json json = read_json(index);
  const JsonObject map = JsonObject{json, index.string()}.object("weight_map");
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map.value.items()) {
    if (!shard.is_string()) throw Error(map.name + ": the file of " + tensor + " is not a string");
    const std::string file = shard.get<std::string>();
    if (std::filesystem::path(file).filename() != file) {
      throw Error(map.name + ": " + file + " is not a file name; shards must lie beside the index");
    }
    shards.insert(file);
  }
  for (const std::string& shard : shards) add_file(index.parent_path() / shard);
  for (const auto& [tensor, shard] : map.value.items()) {
    if (!contains(tensor)) throw Error(map.name + " names " + tensor + ", which no shard holds");
  }
}

const TensorView& TensorFiles::find(std::string_view tensor) const {
  const auto it = tensors_.find(tensor);
  if (it == tensors_.end()) {
    throw Error(name_ + " lacks tensor " + std::string(tensor) + "; is the model complete?");
  }
  return it->second;
}

const TensorView& TensorFiles::find(std::string_view tensor, const std::vector<uint64_t>& shape) const {
  const TensorView& found = find(tensor);
  if (found.shape != shape) {
    throw Error(name_ + ": tensor " + std::string(tensor) + " has shape " + shape_text(found.shape) +
                ", but config.json asks for " + shape_text(shape) + "; take both from one model");
  }
  return found;
}

std::vector<float> to_f32(const TensorView& tensor) {
  std::vector<float> out;
  switch (tensor.dtype) {
    case Dtype::kF32:
      out.resize(tensor.bytes.size() / 4);
      convert<float>(
          tensor, [](float v) { return v; }, out.data());
      return out;
    case Dtype::kF16:
      out.resize(tensor.bytes.size() / 2);
      convert<uint16_t>(tensor, f16_to_f32, out.data());
      return out;
    case Dtype::kBf16:
      out.resize(tensor.bytes.size() / 2);
      convert<uint16_t>(tensor, bf16_to_f32, out.data());
      return out;
    case Dtype::kI64:
    case Dtype::kI32:
      break;
  }
  throw Error("a tensor of integers stands where weights are expected");
}

void to_bf16(const TensorView& tensor, std::span<uint16_t> out) {
  if (tensor.dtype == Dtype::kBf16) {
    std::memcpy(out.data(), tensor.bytes.data(), std::min(out.size_bytes(), tensor.bytes.size()));
    return;
  }
  const std::vector<float> values = to_f32(tensor);
  std::transform(values.begin(), values.end(), out.begin(), f32_to_bf16);
}

std::vector<int64_t> to_i64(const TensorView& tensor) {
  std::vector<int64_t> out;
  if (tensor.dtype == Dtype::kI64) {
    out.resize(tensor.bytes.size() / 8);
    convert<int64_t>(
        tensor, [](int64_t v) { return v; }, out.data());
  } else if (tensor.dtype == Dtype::kI32) {
    out.resize(tensor.bytes.size() / 4);
    convert<int32_t>(
        tensor, [](int32_t v) { return int64_t{v}; }, out.data());
  } else {
    throw Error("a tensor of floats stands where integers are expected");
  }
  return out;
}

}  // namespace quire::qwen3
