// Byte-level BPE from a Hugging Face tokenizer.json, as Qwen and SmolLM write it: an optional NFC normalizer,
// a regular expression that splits text into words, BPE over bytes, and added tokens that are matched before
// all else. Anything else in the file is an Error, never ignored. Thread safety: const calls from anywhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/qwen3/bpe.h"
#include "bench/qwen3/regex.h"
#include "bench/qwen3/utf8.h"

namespace quire::qwen3 {

class Tokenizer {
 public:
  // `name` stands for the file in messages.
  Tokenizer(const nlohmann::json& json, const std::string& name);
  static Tokenizer read(const std::filesystem::path& path);

  // One more than the largest id.
  size_t size() const { return token_bytes_.size(); }

  // Throws Error when `text` is not valid UTF-8.
  std::vector<int32_t> encode(std::string_view text) const;

  // The bytes of one token; they may be part of a character. Empty for an id that is no token.
  std::string_view bytes_of(int32_t token) const;
  // Bytes that are no valid UTF-8 become U+FFFD.
  std::string decode(std::span<const int32_t> tokens) const;

 private:
  struct AddedToken {
    std::string content;
    int32_t id;
    bool normalized;  // matched in normalized text, not in the text as given
  };
  // A stretch of text without added tokens, or one added token.
  struct Segment {
    std::string_view text;
    const AddedToken* token;
  };

  void read_added_tokens(const nlohmann::json& json, const std::string& name);
  void remember(int32_t id, std::string bytes, const std::string& name);
  std::vector<Segment> split_added(std::string_view text, bool normalized) const;
  const AddedToken* added_at(std::string_view text, bool normalized) const;

  bool nfc_ = false;
  Regex words_;
  Bpe bpe_;
  std::vector<AddedToken> added_;         // longest first
  std::vector<std::string> token_bytes_;  // by id
};

}  // namespace quire::qwen3
