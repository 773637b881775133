#include "bench/qwen3/gguf_tokenizer.h"

#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::qwen3 {
namespace {

using nlohmann::json;

// tokenizer.ggml.token_type
enum TokenType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5 };

// The normalizer and pre_tokenizer that tokenizer.json of the model has.
json word_rules(const std::string& pre, const std::string& name) {
  const json bytes{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  if (pre == "smollm") {
    json words = bytes;
    words["use_regex"] = true;
    const json digits{{"type", "Digits"}, {"individual_digits", true}};
    return {{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {digits, words}}}}};
  }
  if (pre == "qwen2") {
    const json split{
        {"type", "Split"},
        {"behavior", "Isolated"},
        {"pattern",
         {{"Regex",
           R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}};
    return {{"normalizer", {{"type", "NFC"}}},
            {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}}};
  }
  throw Error(name + ": tokenizer.ggml.pre is \"" + pre + "\"; smollm and qwen2 are implemented");
}

const json& array_at(const JsonObject& metadata, const char* key) {
  const json& list = metadata.at(key);
  if (!list.is_array()) throw Error(metadata.name + ": \"" + key + "\" is not an array");
  return list;
}

// Tokens in the byte alphabet go to the vocabulary, those in plain letters to the added tokens.
void add_tokens(const JsonObject& metadata, json* out) {
  const json& tokens = array_at(metadata, "tokenizer.ggml.tokens");
  const json& types = array_at(metadata, "tokenizer.ggml.token_type");
  if (types.size() != tokens.size()) {
    throw Error(metadata.name + ": tokenizer.ggml.token_type has " + std::to_string(types.size()) +
                " entries for " + std::to_string(tokens.size()) + " tokens");
  }
  json& vocabulary = (*out)["model"]["vocab"] = json::object();
  json& added = (*out)["added_tokens"] = json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string what = metadata.name + ": token " + std::to_string(id);
    if (!tokens[id].is_string()) throw Error(what + " is not a string");
    const auto& token = tokens[id].get_ref<const std::string&>();
    switch (as_unsigned(types[id]).value_or(0)) {
      case kNormal:
        if (!vocabulary.emplace(token, id).second) throw Error(what + " is the same as one before it");
        break;
      case kUnknown:
      case kControl:
      case kUserDefined:
        added.push_back({{"content", token}, {"id", id}});
        break;
      case kUnused:  // fills the vocabulary up
        break;
      default:
        throw Error(what + " has type " + text_of(types[id]) + ", which no byte-level BPE has");
    }
  }
}

}  // namespace

Tokenizer gguf_tokenizer(const Gguf& gguf, const std::string& name) {
  const JsonObject metadata{gguf.metadata, name};
  if (const std::string model = metadata.string("tokenizer.ggml.model"); model != "gpt2") {
    throw Error(name + ": tokenizer.ggml.model is \"" + model +
                "\"; byte-level BPE (\"gpt2\") is implemented");
  }
  // It is read as the tokenizer.json that says the same.
  json file = word_rules(metadata.string("tokenizer.ggml.pre"), name);
  file["decoder"] = {{"type", "ByteLevel"}};
  file["model"] = {{"type", "BPE"}, {"merges", array_at(metadata, "tokenizer.ggml.merges")}};
  add_tokens(metadata, &file);
  return {file, name};
}

}  // namespace quire::qwen3
