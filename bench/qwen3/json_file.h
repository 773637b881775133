// Reading JSON that others wrote: every fault becomes an Error that names the file and the key.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace quire::qwen3 {

// `name` stands for the text in messages.
nlohmann::json parse_json(std::string_view text, const std::string& name);
nlohmann::json read_json(const std::filesystem::path& path);
std::string read_text(const std::filesystem::path& path);

// `value` as it stands in messages.
std::string text_of(const nlohmann::json& value);

// The value of an integer that is not negative; nothing for anything else.
std::optional<uint64_t> as_unsigned(const nlohmann::json& value);

// A JSON object with the name of where it came from.
struct JsonObject {
  const nlohmann::json& value;
  std::string name;

  // nullptr when the key is absent or null.
  const nlohmann::json* find(const char* key) const;
  const nlohmann::json& at(const char* key) const;
  JsonObject object(const char* key) const;

  // Integers in [low, high] and finite numbers > 0; the second form gives the fallback when absent.
  uint64_t integer(const char* key, uint64_t low, uint64_t high) const;
  double positive(const char* key) const;
  double positive(const char* key, double fallback) const;
  bool boolean(const char* key, bool fallback) const;
  std::string string(const char* key) const;
  std::string string(const char* key, const std::string& fallback) const;
};

}  // namespace quire::qwen3
