#include "bench/qwen3/byte_alphabet.h"

#include <utf8proc.h>

#include <array>
#include <cstdint>

namespace quire::qwen3 {
namespace {

constexpr int32_t kNone = -1;

constexpr bool stands_for_itself(int32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// byte by codepoint
constexpr std::array<int32_t, 0x144> make_table() {
  std::array<int32_t, 0x144> table{};
  table.fill(kNone);
  int32_t next = 0x100;
  for (int32_t byte = 0; byte < 256; ++byte) {
    table[static_cast<size_t>(stands_for_itself(byte) ? byte : next++)] = byte;
  }
  return table;
}

constexpr auto kByteOfCodepoint = make_table();

}  // namespace

std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(token.data());
  auto left = static_cast<utf8proc_ssize_t>(token.size());
  while (left > 0) {
    utf8proc_int32_t codepoint = 0;
    const utf8proc_ssize_t n = utf8proc_iterate(at, left, &codepoint);
    if (n <= 0 || static_cast<size_t>(codepoint) >= kByteOfCodepoint.size()) return std::nullopt;
    const int32_t byte = kByteOfCodepoint[static_cast<size_t>(codepoint)];
    if (byte == kNone) return std::nullopt;
    bytes += static_cast<char>(byte);
    at += n;
    left -= n;
  }
  return bytes;
}

}  // namespace quire::qwen3
