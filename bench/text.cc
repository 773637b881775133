#include "bench/text.h"

#include <array>
#include <cstdio>
#include <memory>
#include <string_view>

#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::bench {
namespace {

// "Gen1:1 In the beginning ..." to "In the beginning ...", line by line.
std::string cut_verse_numbers(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    const size_t blank = line.find(' ');
    out += blank == std::string_view::npos ? line : line.substr(blank + 1);
    text.remove_prefix(end);
  }
  return out;
}

std::string king_james() {
  std::string text;
  const auto close = [](FILE* pipe) { pclose(pipe); };
  const std::unique_ptr<FILE, decltype(close)> pipe(popen("bible -f gen1:1-rev22:21 2>/dev/null", "r"),
                                                    close);
  std::array<char, 1 << 16> buffer{};
  while (pipe != nullptr) {
    const size_t n = fread(buffer.data(), 1, buffer.size(), pipe.get());
    if (n == 0) break;
    text.append(buffer.data(), n);
  }
  if (text.empty()) {
    throw qwen3::Error("the King James text is missing: apt-get install bible-kjv, or give --text FILE");
  }
  return cut_verse_numbers(text);
}

}  // namespace

std::string load_text(const std::filesystem::path& path) {
  return path.empty() ? king_james() : qwen3::read_text(path);
}

}  // namespace quire::bench
