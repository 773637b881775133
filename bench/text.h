// The text that a program reads. Thread safety: pure functions.
#pragma once

#include <filesystem>
#include <string>

namespace quire::bench {

// The content of a file, or with an empty path the King James text of Debian's package bible-kjv, one verse a
// line, verse numbers cut off. Throws qwen3::Error.
std::string load_text(const std::filesystem::path& path);

}  // namespace quire::bench
