#include "bench/qwen3/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "bench/qwen3/byte_alphabet.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::qwen3 {
namespace {

constexpr uint64_t kMaxTokens = uint64_t{1} << 24;
// Words longer than this are rare; keeping them would let a hostile text fill memory.
constexpr size_t kCachedWordBytes = 64;

[[noreturn]] void unsupported(const std::string& what) {
  throw Error(what + " is not what a Qwen or SmolLM tokenizer has, and not implemented");
}

bool parse_normalizer(const JsonObject& json) {
  if (json.find("normalizer") == nullptr) return false;
  const JsonObject normalizer = json.object("normalizer");
  if (normalizer.string("type") != "NFC") unsupported(normalizer.name + " " + normalizer.string("type"));
  return true;
}

// GPT-2's words after every digit has become a word of its own: blanks before a digit see the end of the
// text.
constexpr const char* kDigitsThenWords =
    R"(\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";

// The pattern of [Split(pattern, Isolated), ByteLevel without a pattern of its own], as Qwen has it, or of
// [Digits one by one, ByteLevel with its own], as SmolLM has it.
std::string parse_word_pattern(const JsonObject& json) {
  const JsonObject sequence = json.object("pre_tokenizer");
  if (sequence.string("type") != "Sequence") unsupported(sequence.name + " " + sequence.string("type"));
  const nlohmann::json& parts = sequence.at("pretokenizers");
  if (!parts.is_array() || parts.size() != 2) unsupported(sequence.name + " of other than two parts");
  const JsonObject split{parts[0], sequence.name + " split"};
  const JsonObject bytes{parts[1], sequence.name + " byte level"};
  const bool digits = split.string("type") == "Digits";
  if (digits && !split.boolean("individual_digits", false))
    unsupported(split.name + " that keeps digits together");
  if (!digits && (split.string("type") != "Split" || split.string("behavior") != "Isolated" ||
                  split.boolean("invert", false))) {
    unsupported(split.name + " that is not isolated matches");
  }
  if (bytes.string("type") != "ByteLevel" || bytes.boolean("add_prefix_space", true) ||
      bytes.boolean("use_regex", true) != digits) {
    unsupported(bytes.name + " with a prefix space or an odd pattern");
  }
  return digits ? kDigitsThenWords : split.object("pattern").string("Regex");
}

void check_ends(const JsonObject& json) {
  if (json.find("post_processor") != nullptr) {
    const JsonObject post = json.object("post_processor");
    if (post.string("type") != "ByteLevel") unsupported(post.name + " " + post.string("type"));
  }
  const JsonObject decoder = json.object("decoder");
  if (decoder.string("type") != "ByteLevel") unsupported(decoder.name + " " + decoder.string("type"));
}

std::string token_bytes(const std::string& token, const std::string& name) {
  std::optional<std::string> bytes = bytes_of_token(token);
  if (!bytes) throw Error(name + ": token \"" + token + "\" holds a character that stands for no byte");
  return *std::move(bytes);
}

std::unordered_map<std::string, int32_t> parse_vocabulary(const JsonObject& model) {
  const JsonObject vocabulary = model.object("vocab");
  std::unordered_map<std::string, int32_t> tokens;
  for (const auto& [token, id] : vocabulary.value.items()) {
    const std::optional<uint64_t> number = as_unsigned(id);
    if (!number || *number >= kMaxTokens) {
      throw Error(vocabulary.name + ": the id of \"" + token + "\" is " + text_of(id) +
                  ", not a token number");
    }
    tokens.emplace(token_bytes(token, vocabulary.name), static_cast<int32_t>(*number));
  }
  return tokens;
}

// Each merge is ["a", "b"], or "a b" in older files.
std::vector<std::pair<std::string, std::string>> parse_merges(const JsonObject& model) {
  const nlohmann::json& list = model.at("merges");
  const std::string name = model.name + ": merges";
  if (!list.is_array()) throw Error(name + " is not an array");
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.size());
  for (const nlohmann::json& merge : list) {
    std::string left;
    std::string right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else if (const std::string pair = merge.is_string() ? merge.get<std::string>() : "";
               pair.find(' ') != std::string::npos) {
      left = pair.substr(0, pair.find(' '));
      right = pair.substr(pair.find(' ') + 1);
    } else {
      throw Error(name + " holds " + text_of(merge) + ", which is no pair of tokens");
    }
    merges.emplace_back(token_bytes(left, name), token_bytes(right, name));
  }
  return merges;
}

Bpe parse_bpe(const JsonObject& json) {
  const JsonObject model = json.object("model");
  if (model.string("type") != "BPE") unsupported(model.name + " " + model.string("type"));
  for (const char* key : {"dropout", "unk_token"}) {
    if (model.find(key) != nullptr) unsupported(model.name + " with " + key);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string(key, "").empty()) unsupported(model.name + " with " + key);
  }
  if (model.boolean("byte_fallback", false)) unsupported(model.name + " with byte_fallback");
  return {parse_vocabulary(model), parse_merges(model), model.boolean("ignore_merges", false), model.name};
}

}  // namespace

Tokenizer::Tokenizer(const nlohmann::json& json, const std::string& name)
    : nfc_(parse_normalizer({json, name})),
      words_(parse_word_pattern({json, name}), name),
      bpe_(parse_bpe({json, name})) {
  check_ends({json, name});
  const JsonObject vocabulary = JsonObject{json, name}.object("model").object("vocab");
  for (const auto& [token, id] : vocabulary.value.items()) {
    remember(id.get<int32_t>(), token_bytes(token, name), name);
  }
  read_added_tokens(json, name);
}

Tokenizer Tokenizer::read(const std::filesystem::path& path) { return {read_json(path), path.string()}; }

void Tokenizer::read_added_tokens(const nlohmann::json& json, const std::string& name) {
  const nlohmann::json* list = JsonObject{json, name}.find("added_tokens");
  if (list == nullptr) return;
  if (!list->is_array()) throw Error(name + ": added_tokens is not an array");
  for (const nlohmann::json& entry : *list) {
    const JsonObject token{entry, name + ": added token"};
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (token.boolean(key, false)) unsupported(token.name + " with " + key);
    }
    AddedToken added{token.string("content"), static_cast<int32_t>(token.integer("id", 0, kMaxTokens - 1)),
                     token.boolean("normalized", false)};
    if (added.content.empty()) throw Error(token.name + " " + std::to_string(added.id) + " is empty");
    remember(added.id, added.content, name);
    added_.push_back(std::move(added));
  }
  std::stable_sort(added_.begin(), added_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
}

void Tokenizer::remember(int32_t id, std::string bytes, const std::string& name) {
  const auto index = static_cast<size_t>(id);
  if (index >= token_bytes_.size()) token_bytes_.resize(index + 1);
  // An added token may repeat an entry of the vocabulary, in letters instead of bytes.
  if (!token_bytes_[index].empty() && token_bytes_[index] != bytes) {
    throw Error(name + ": id " + std::to_string(id) + " belongs to two tokens");
  }
  token_bytes_[index] = std::move(bytes);
}

const Tokenizer::AddedToken* Tokenizer::added_at(std::string_view text, bool normalized) const {
  for (const AddedToken& token : added_) {
    if (token.normalized == normalized && text.substr(0, token.content.size()) == token.content)
      return &token;
  }
  return nullptr;
}

std::vector<Tokenizer::Segment> Tokenizer::split_added(std::string_view text, bool normalized) const {
  std::string first_bytes;
  for (const AddedToken& token : added_) {
    if (token.normalized == normalized) first_bytes += token.content[0];
  }
  std::vector<Segment> segments;
  size_t done = 0;
  for (size_t at = text.find_first_of(first_bytes); at != std::string_view::npos;
       at = text.find_first_of(first_bytes, at)) {
    const AddedToken* token = added_at(text.substr(at), normalized);
    if (token == nullptr) {
      ++at;
      continue;
    }
    if (at > done) segments.push_back({text.substr(done, at - done), nullptr});
    segments.push_back({text.substr(at, token->content.size()), token});
    at += token->content.size();
    done = at;
  }
  if (done < text.size()) segments.push_back({text.substr(done), nullptr});
  return segments;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    throw Error("the text is not valid UTF-8 at byte " + std::to_string(bad) + "; convert it first");
  }
  std::vector<int32_t> ids;
  std::unordered_map<std::string, std::vector<int32_t>> known;  // words of this text
  const auto encode_word = [&](std::string_view word) {
    if (word.size() > kCachedWordBytes) return bpe_.encode(word, ids);
    const auto [it, is_new] = known.try_emplace(std::string(word));
    if (is_new) bpe_.encode(word, it->second);
    ids.insert(ids.end(), it->second.begin(), it->second.end());
  };
  for (const Segment& raw : split_added(text, false)) {
    if (raw.token != nullptr) {
      ids.push_back(raw.token->id);
      continue;
    }
    const std::string normal = nfc_ ? normalize_nfc(raw.text) : std::string(raw.text);
    for (const Segment& segment : split_added(normal, true)) {
      if (segment.token != nullptr) {
        ids.push_back(segment.token->id);
      } else {
        words_.split(segment.text, encode_word);
      }
    }
  }
  return ids;
}

std::string_view Tokenizer::bytes_of(int32_t token) const {
  if (token < 0 || static_cast<size_t>(token) >= token_bytes_.size()) return {};
  return token_bytes_[static_cast<size_t>(token)];
}

std::string Tokenizer::decode(std::span<const int32_t> tokens) const {
  TextStream stream;
  std::string text;
  for (const int32_t token : tokens) text += stream.push(bytes_of(token));
  return text + stream.finish();
}

}  // namespace quire::qwen3
