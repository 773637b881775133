// UTF-8 text: checking, normalizing, and putting bytes that arrive piece by piece back together.
// Thread safety: pure functions; a TextStream is used by one thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quire::qwen3 {

// The position of the first byte that is not valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

// Unicode normalization form C. `text` must be valid.
std::string normalize_nfc(std::string_view text);

// Turns bytes of text that arrive in any pieces into whole characters. Bytes that no character can hold
// become U+FFFD.
class TextStream {
 public:
  // The characters that `bytes` completes.
  std::string push(std::string_view bytes);
  // What is left, as U+FFFD.
  std::string finish();

 private:
  std::string pending_;  // the beginning of one character, at most 3 bytes
};

}  // namespace quire::qwen3
