// The alphabet in which byte-level BPE vocabularies are written: every byte stands as one printable
// character. Bytes that are printable in Latin-1 stand for themselves, the others as U+0100 and on.
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quire::qwen3 {

// The bytes that `token` stands for; nothing when it holds a character outside the alphabet.
std::optional<std::string> bytes_of_token(std::string_view token);

}  // namespace quire::qwen3
