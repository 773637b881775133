#include "bench/qwen3/utf8.h"

#include <gtest/gtest.h>

namespace quire::qwen3 {
namespace {

TEST(TextStreamTest, CharactersComeOutWhenTheyAreWhole) {
  TextStream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.push("\x99"), "");
  EXPECT_EQ(stream.push("\x82z"), "\xF0\x9F\x99\x82z");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStreamTest, BytesThatNoCharacterCanHoldAreReplaced) {
  const std::string mark = "\xEF\xBF\xBD";
  TextStream stream;
  EXPECT_EQ(stream.push("\xff"), mark);
  EXPECT_EQ(stream.push("\x80x"), mark + "x");
  EXPECT_EQ(stream.push("\xE4\xBA"), "");
  EXPECT_EQ(stream.push("y"), mark + "y");                     // a character cut short is one mark
  EXPECT_EQ(stream.push("\xED\xA0\x80"), mark + mark + mark);  // a surrogate is none
  EXPECT_EQ(stream.push("\xF4\x90"), mark + mark);             // beyond U+10FFFF
  EXPECT_EQ(stream.push("\xC3"), "");
  EXPECT_EQ(stream.finish(), mark);
  EXPECT_EQ(stream.finish(), "");
}

TEST(Utf8Test, TheFirstInvalidByteIsFound) {
  EXPECT_EQ(find_invalid_utf8("plain \u6f22 \U0001F642"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("\u6f22\xE6\xBC"), 3u);
  EXPECT_EQ(find_invalid_utf8("a\xC0\x80"), 1u);
}

TEST(Utf8Test, NormalizationComposes) {
  EXPECT_EQ(normalize_nfc("e\u0301 \u1112\u1161\u11ab"), "\u00e9 \ud55c");
  EXPECT_EQ(normalize_nfc(""), "");
}

}  // namespace
}  // namespace quire::qwen3
