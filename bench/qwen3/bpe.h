// Byte-pair encoding of one word: its bytes become tokens, then the neighbours whose merge ranks lowest
// (the leftmost of several) become one, until none can.
// A vocabulary may lack bytes that no text of its language holds. Thread safety: const after construction.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace quire::qwen3 {

class Bpe {
 public:
  // tokens: bytes to id. merges: pairs of bytes, best first. `name` stands for the file in messages. Throws
  // Error when a merge names something that is no token.
  Bpe(std::unordered_map<std::string, int32_t> tokens,
      const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges,
      const std::string& name);

  // Appends the tokens of `word`; throws Error for a byte that has none. Time grows as n log n with its
  // length.
  void encode(std::string_view word, std::vector<int32_t>& out) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t token;
  };
  const Merge* find_merge(int32_t left, int32_t right) const;
  int32_t token_of(const std::string& bytes, const std::string& name) const;
  int32_t token_of(char byte) const;

  std::unordered_map<std::string, int32_t> tokens_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::vector<int32_t> byte_tokens_;  // [256], -1: none
  bool ignore_merges_;                // a word that is a token is not merged from its bytes
};

}  // namespace quire::qwen3
