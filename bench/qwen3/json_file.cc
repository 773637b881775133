#include "bench/qwen3/json_file.h"

#include <cerrno>
#include <cmath>
#include <fstream>
#include <iterator>
#include <system_error>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& name) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& e) {  // its own text may hold pieces of the file
    throw Error(name + " is not valid JSON at byte " + std::to_string(e.byte) + "; fetch it again");
  }
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path)) {
    const int error = in ? EISDIR : errno;
    throw Error("cannot read " + path.string() + ": " + std::generic_category().message(error));
  }
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (in.bad()) throw Error("cannot read " + path.string() + ": the read failed half way");
  return text;
}

json read_json(const std::filesystem::path& path) { return parse_json(read_text(path), path.string()); }

std::string text_of(const json& value) {
  // Strings of other formats may hold what is no UTF-8.
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::optional<uint64_t> as_unsigned(const json& value) {
  const bool negative = value.is_number_integer() && !value.is_number_unsigned() && value.get<int64_t>() < 0;
  if (!value.is_number_integer() || negative) return std::nullopt;
  return value.get<uint64_t>();
}

const json* JsonObject::find(const char* key) const {
  if (!value.is_object()) throw Error(name + " is not a JSON object");
  const auto it = value.find(key);
  return it == value.end() || it->is_null() ? nullptr : &*it;
}

const json& JsonObject::at(const char* key) const {
  const json* found = find(key);
  if (found == nullptr)
    throw Error(name + " lacks the key \"" + key + "\"; fetch the model's own file again");
  return *found;
}

JsonObject JsonObject::object(const char* key) const {
  const json& found = at(key);
  if (!found.is_object()) throw Error(name + ": \"" + key + "\" is not an object");
  return {found, name + ": " + key};
}

uint64_t JsonObject::integer(const char* key, uint64_t low, uint64_t high) const {
  const json& found = at(key);
  const std::optional<uint64_t> number = as_unsigned(found);
  if (!number || *number < low || *number > high) {
    throw Error(name + ": \"" + key + "\" is " + text_of(found) + ", not an integer from " +
                std::to_string(low) + " to " + std::to_string(high));
  }
  return *number;
}

double JsonObject::positive(const char* key) const {
  const json& found = at(key);
  if (!found.is_number() || !std::isfinite(found.get<double>()) || found.get<double>() <= 0) {
    throw Error(name + ": \"" + key + "\" is " + text_of(found) + ", not a number above zero");
  }
  return found.get<double>();
}

double JsonObject::positive(const char* key, double fallback) const {
  return find(key) == nullptr ? fallback : positive(key);
}

bool JsonObject::boolean(const char* key, bool fallback) const {
  const json* found = find(key);
  if (found == nullptr) return fallback;
  if (!found->is_boolean()) throw Error(name + ": \"" + key + "\" is neither true nor false");
  return found->get<bool>();
}

std::string JsonObject::string(const char* key) const {
  const json& found = at(key);
  if (!found.is_string()) throw Error(name + ": \"" + key + "\" is not a string");
  return found.get<std::string>();
}

std::string JsonObject::string(const char* key, const std::string& fallback) const {
  return find(key) == nullptr ? fallback : string(key);
}

}  // namespace quire::qwen3
