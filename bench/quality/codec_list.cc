#include "bench/quality/codec_list.h"

#include <algorithm>
#include <charconv>
#include <sstream>

namespace quire::bench {
namespace {

size_t digits_at(std::string_view name) { return std::min(name.size(), name.find_first_of("0123456789")); }

bool rotated(std::string_view name) {
  const std::string_view family = codec_family(name);
  return family == "rot" || family == "tcq";
}

std::vector<std::string> lossy_names() {
  quire_capabilities_info info{};
  info.struct_size = sizeof info;
  qwen3::check(quire_capabilities(&info), nullptr);
  std::vector<std::string> names;
  std::istringstream words(info.codecs);
  for (std::string name; words >> name;) {
    if (name != "f32" && name != "bf16") names.push_back(name);
  }
  return names;
}

}  // namespace

std::string_view codec_family(std::string_view name) { return name.substr(0, digits_at(name)); }

int codec_bits(std::string_view name) {
  int bits = 0;
  const std::string_view digits = name.substr(digits_at(name));
  std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  return bits;
}

std::vector<quire_codec> lossy_codecs() {
  std::vector<quire_codec> codecs;
  for (const std::string& name : lossy_names()) codecs.push_back(qwen3::parse_codec(name));
  return codecs;
}

std::vector<std::string> frontier_pairs() {
  std::vector<std::string> pairs;
  const std::vector<std::string> names = lossy_names();
  for (const std::string& key : names) {
    for (const std::string& value : names) {
      const int fewer = codec_bits(key) - codec_bits(value);
      const bool family = codec_family(key) == codec_family(value);
      const bool next = family && fewer == 1;
      const bool across = !family && rotated(key) && rotated(value) && (fewer == 0 || fewer == 1);
      if (key == value || next || across) pairs.push_back(key + "/" + value);
    }
  }
  return pairs;
}

}  // namespace quire::bench
