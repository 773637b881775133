#include "bench/qwen3/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

const utf8proc_uint8_t* as_bytes(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

// Bytes of the valid character that `text` begins with, or 0.
size_t character_bytes(std::string_view text) {
  utf8proc_int32_t codepoint = 0;
  const auto n = utf8proc_iterate(as_bytes(text), static_cast<utf8proc_ssize_t>(text.size()), &codepoint);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

// Whether more bytes could make a character out of `text`, which begins with none.
bool may_continue(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const size_t wanted = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() >= wanted) return false;
  if (text.size() == 1) return true;
  const auto second = static_cast<unsigned char>(text[1]);
  // Overlong forms, surrogates and what lies beyond U+10FFFF show in the second byte.
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  return second >= low && second <= high &&
         std::all_of(text.begin() + 2, text.end(), [](char c) { return (c & 0xC0) == 0x80; });
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t n = is_ascii(text[at]) ? 1 : character_bytes(text.substr(at));
    if (n == 0) return at;
    at += n;
  }
  return std::string_view::npos;
}

std::string normalize_nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), is_ascii)) return std::string(text);
  constexpr auto kNfc = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  utf8proc_uint8_t* result = nullptr;
  const auto size = utf8proc_map(as_bytes(text), static_cast<utf8proc_ssize_t>(text.size()), &result, kNfc);
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(result, std::free);
  if (size < 0) throw Error(std::string("the text cannot be normalized: ") + utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(size)};
}

std::string TextStream::push(std::string_view bytes) {
  pending_ += bytes;
  const std::string_view text = pending_;
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    if (const size_t n = character_bytes(rest); n > 0) {
      out += rest.substr(0, n);
      at += n;
    } else if (may_continue(rest)) {
      break;
    } else {  // one U+FFFD for the longest run that could have begun a character
      size_t bad = 1;
      while (bad < rest.size() && may_continue(rest.substr(0, bad + 1))) ++bad;
      out += kReplacement;
      at += bad;
    }
  }
  pending_.erase(0, at);
  return out;
}

std::string TextStream::finish() {
  const bool cut = !pending_.empty();
  pending_.clear();
  return cut ? std::string(kReplacement) : std::string();
}

}  // namespace quire::qwen3
