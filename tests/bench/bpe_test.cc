#include "bench/qwen3/bpe.h"

#include <gtest/gtest.h>

#include "bench/qwen3/byte_alphabet.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

std::unordered_map<std::string, int32_t> bytes_and(const std::vector<std::string>& more) {
  std::unordered_map<std::string, int32_t> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace(std::string(1, static_cast<char>(byte)), byte);
  for (size_t i = 0; i < more.size(); ++i) tokens.emplace(more[i], 256 + static_cast<int32_t>(i));
  return tokens;
}

std::vector<int32_t> encode(const Bpe& bpe, std::string_view word) {
  std::vector<int32_t> out;
  bpe.encode(word, out);
  return out;
}

TEST(BpeTest, TheBestRankWinsAndTheLeftmostOfEqualOnes) {
  const Bpe bpe(bytes_and({"aa", "ab", "aab"}), {{"a", "b"}, {"a", "a"}, {"a", "ab"}}, false, "test");
  EXPECT_EQ(encode(bpe, "aaab"), (std::vector<int32_t>{256, 257}));  // ab first, then aa, not a + ab
  EXPECT_EQ(encode(bpe, "aaa"), (std::vector<int32_t>{256, 'a'}));
  EXPECT_EQ(encode(bpe, "aab"), (std::vector<int32_t>{258}));
  EXPECT_EQ(encode(bpe, ""), std::vector<int32_t>{});
}

TEST(BpeTest, IgnoringMergesTakesWholeWords) {
  const std::vector<std::pair<std::string, std::string>> merges{{"a", "b"}};
  EXPECT_EQ(encode(Bpe(bytes_and({"ab", "abc"}), merges, true, "t"), "abc"), (std::vector<int32_t>{257}));
  EXPECT_EQ(encode(Bpe(bytes_and({"ab", "abc"}), merges, false, "t"), "abc"),
            (std::vector<int32_t>{256, 'c'}));
}

TEST(ByteAlphabetTest, CharactersStandForBytes) {
  EXPECT_EQ(bytes_of_token("\u0120the"), " the");
  EXPECT_EQ(bytes_of_token("\u010a"), "\n");
  EXPECT_EQ(bytes_of_token("\u0100\u00ff"), std::string("\0\xff", 2));
  EXPECT_EQ(bytes_of_token("\u0143"), "\xad");
  EXPECT_EQ(bytes_of_token(" "), std::nullopt);
  EXPECT_EQ(bytes_of_token("\u0144"), std::nullopt);
  EXPECT_EQ(bytes_of_token("\xff"), std::nullopt);
}

}  // namespace
}  // namespace quire::qwen3
