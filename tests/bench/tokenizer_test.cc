#include "bench/qwen3/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "bench/qwen3/json_file.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

using nlohmann::json;

const Tokenizer& tiny() {
  static const Tokenizer tokenizer = Tokenizer::read(tiny_model() / "tokenizer.json");
  return tokenizer;
}

json tiny_json() { return read_json(tiny_model() / "tokenizer.json"); }

TEST(TokenizerTest, IdsMatchHuggingFace) {
  const json file = read_json(tiny_model() / "tokenizer_cases.json");
  ASSERT_GE(file["cases"].size(), 8u);
  for (const json& c : file["cases"]) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(tiny().encode(text), c["ids"].get<std::vector<int32_t>>()) << text;
  }
}

TEST(TokenizerTest, DecodeGivesTheTextBack) {
  const json file = read_json(tiny_model() / "tokenizer_cases.json");
  for (const json& c : file["cases"]) {
    EXPECT_EQ(tiny().decode(c["ids"].get<std::vector<int32_t>>()), c["text"].get<std::string>());
  }
}

TEST(TokenizerTest, NfcJoinsCombiningCharacters) {
  EXPECT_EQ(tiny().encode("cafe\u0301"), tiny().encode("caf\u00e9"));
  EXPECT_EQ(tiny().decode(tiny().encode("A\u030angstro\u0308m")), "\u00c5ngstr\u00f6m");
}

TEST(TokenizerTest, AddedTokensAreMatchedFirstAndLongestFirst) {
  json file = tiny_json();
  file["added_tokens"].push_back(
      {{"id", 4096}, {"content", "<|im_start|>system"}, {"normalized", false}, {"special", false}});
  const Tokenizer tokenizer(file, "test");
  EXPECT_EQ(tokenizer.size(), 4097u);
  EXPECT_EQ(tokenizer.encode("<|im_start|>system<|im_start|>"), (std::vector<int32_t>{4096, 4094}));
  EXPECT_EQ(tokenizer.encode("<|im_star").size(), tiny().encode("<|im_star").size());
}

TEST(TokenizerTest, NormalizedAddedTokensAreMatchedAfterNormalization) {
  json file = tiny_json();
  file["added_tokens"].push_back(
      {{"id", 4096}, {"content", "\u00e9t\u00e9"}, {"normalized", true}, {"special", false}});
  EXPECT_EQ(Tokenizer(file, "test").encode("e\u0301te\u0301"), std::vector<int32_t>{4096});
}

TEST(TokenizerTest, MergesMayBeStrings) {
  json file = tiny_json();
  for (json& merge : file["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const std::string text = "In the beginning God created the heaven and the earth.\n";
  EXPECT_EQ(Tokenizer(file, "test").encode(text), tiny().encode(text));
}

TEST(TokenizerTest, LongTextsAndLongWordsAreFast) {
  std::string text;
  while (text.size() < 4'200'000)
    text += "And the LORD spake unto Moses, saying, number " + std::to_string(text.size());
  const std::string word(300'000, 'a');
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tiny().decode(tiny().encode(text)), text);
  EXPECT_EQ(tiny().decode(tiny().encode(word)), word);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(TokenizerTest, InvalidUtf8IsAnError) {
  EXPECT_NE(error_of([] { (void)tiny().encode("abc\xff"); }).find("byte 3"), std::string::npos);
  EXPECT_NE(error_of([] { (void)tiny().encode("\xed\xa0\x80"); }).find("byte 0"), std::string::npos);
}

TEST(TokenizerTest, UnknownIdsDecodeToNothing) {
  const std::vector<int32_t> ids{-1, 1135, 1 << 30};
  EXPECT_EQ(tiny().decode(ids), "In");
}

struct Fault {
  std::string pointer;
  json value;
  std::string expected;
};

TEST(TokenizerTest, FaultsAreNamed) {
  const std::vector<Fault> faults{
      {"/model", nullptr, "lacks the key \"model\""},
      {"/model/type", "WordPiece", "WordPiece"},
      {"/model/vocab/!", -1, "not a token number"},
      {"/model/vocab/!", "zero", "not a token number"},
      {"/model/vocab/!", 1, "belongs to two tokens"},
      {"/model/vocab/\u6f22", 4000, "stands for no byte"},
      {"/model/merges/0", json::array({"a"}), "no pair of tokens"},
      {"/model/merges/0", json::array({"zzzzqq", "a"}), "vocabulary lacks"},
      {"/model/merges", 3, "not an array"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/normalizer/type", "NFKC", "NFKC"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a", "does not compile"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", "not implemented"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "not implemented"},
      {"/pre_tokenizer/pretokenizers/0", json{{"type", "Digits"}}, "keeps digits together"},
      {"/pre_tokenizer/pretokenizers/0", json{{"type", "Digits"}, {"individual_digits", true}},
       "an odd pattern"},
      {"/pre_tokenizer", nullptr, "lacks the key \"pre_tokenizer\""},
      {"/decoder/type", "WordPiece", "WordPiece"},
      {"/added_tokens/0/lstrip", true, "lstrip"},
      {"/added_tokens/0/content", "", "is empty"},
      {"/added_tokens/0/id", 5, "belongs to two tokens"},
      {"/added_tokens", 7, "not an array"},
      {"/post_processor", json{{"type", "TemplateProcessing"}}, "TemplateProcessing"},
  };
  for (const Fault& fault : faults) {
    json file = tiny_json();
    file[json::json_pointer(fault.pointer)] = fault.value;
    const std::string message = error_of([&] { const Tokenizer tokenizer(file, "tokenizer.json"); });
    EXPECT_NE(message.find(fault.expected), std::string::npos) << fault.pointer << ": " << message;
  }
}

TEST(TokenizerTest, AByteThatTheVocabularyLacksIsAFaultOfTheText) {
  json file = tiny_json();
  file["model"]["vocab"].erase("!");
  EXPECT_NE(error_of([&] { const Tokenizer tokenizer(file, "t"); }).find("byte 33"), std::string::npos);
  file["model"]["merges"] = json::array();
  const Tokenizer tokenizer(file, "t");
  EXPECT_EQ(tokenizer.encode("Hi").size(), 2u);
  EXPECT_NE(error_of([&] { (void)tokenizer.encode("Hi!"); }).find("holds byte 33"), std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
