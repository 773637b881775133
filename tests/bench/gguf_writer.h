// Writes GGUF files for tests, good ones and bad ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace quire::qwen3 {

class GgufWriter {
 public:
  // `type` as in the file; it need not fit T.
  template <typename T>
  void number(const std::string& key, uint32_t type, T value) {
    begin(key, type);
    put(metadata_, value);
  }
  void string(const std::string& key, const std::string& value) {
    begin(key, kString);
    put_string(metadata_, value);
  }
  void strings(const std::string& key, const std::vector<std::string>& values) {
    begin(key, kArray);
    put<uint32_t>(metadata_, kString);
    put<uint64_t>(metadata_, values.size());
    for (const std::string& value : values) put_string(metadata_, value);
  }
  // dims: innermost first, as in the file. The data follows that of the tensor before, or `gap` bytes later.
  void tensor(const std::string& name, uint32_t type, const std::vector<uint64_t>& dims,
              const std::string& data, uint64_t gap = 0) {
    ++tensors_;
    put_string(entries_, name);
    put<uint32_t>(entries_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) put(entries_, dim);
    put(entries_, type);
    put<uint64_t>(entries_, data_.size() + gap);
    data_ += std::string(gap, '\0') + data;
    pad(data_);
  }

  std::string bytes() const {
    std::string out = "GGUF";
    put<uint32_t>(out, 3);
    put(out, tensors_);
    put(out, keys_);
    out += metadata_ + entries_;
    pad(out);
    return out + data_;
  }

 private:
  static constexpr uint32_t kString = 8;
  static constexpr uint32_t kArray = 9;
  static constexpr size_t kAlignment = 32;

  template <typename T>
  static void put(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void put_string(std::string& to, const std::string& text) {
    put<uint64_t>(to, text.size());
    to += text;
  }
  static void pad(std::string& to) { to.resize((to.size() + kAlignment - 1) / kAlignment * kAlignment); }

  void begin(const std::string& key, uint32_t type) {
    ++keys_;
    put_string(metadata_, key);
    put(metadata_, type);
  }

  uint64_t keys_ = 0;
  uint64_t tensors_ = 0;
  std::string metadata_;
  std::string entries_;
  std::string data_;
};

}  // namespace quire::qwen3
