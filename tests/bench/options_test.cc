#include "bench/options.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bench/memory.h"
#include "bench/row.h"
#include "bench/synthetic_run.h"
#include "bench/text.h"
#include "tests/bench/test_files.h"

namespace quire::bench {
namespace {

TEST(OptionsTest, CodecPairsAreNamed) {
  EXPECT_EQ(parse_codec_pair("rot4/int8").name(), "rot4/int8");
  EXPECT_EQ(parse_codec_pair("bf16").name(), "bf16/bf16");
  EXPECT_NE(qwen3::error_of([] { parse_codec_pair("rot4/"); }).find("choose from"), std::string::npos);
}

TEST(OptionsTest, SelectionsAreNamed) {
  for (const char* name : {"none", "top:7", "share:0.25", "mass:0.9"}) {
    qwen3::SelectionOptions selection;
    parse_selection("top:3", &selection);  // nothing of an earlier choice stays
    parse_selection(name, &selection);
    EXPECT_EQ(selection_name(selection), name);
  }
  for (const char* name : {"share", "share:0", "share:1.1", "share:x", "shares:.5"}) {
    qwen3::SelectionOptions selection;
    EXPECT_NE(qwen3::error_of([&] { parse_selection(name, &selection); }).find("chooses no pages"),
              std::string::npos)
        << name;
  }
}

TEST(RowTest, QuantilesAreOfRank) {
  Row row;
  row.codec = parse_codec_pair("rot4");
  for (int i = 1; i <= 200; ++i) row.decode_seconds.push_back(1e-3 * i);
  const nlohmann::json json = to_json(row);
  EXPECT_DOUBLE_EQ(json["p50_ms"], 100);
  EXPECT_DOUBLE_EQ(json["p99_ms"], 198);
  EXPECT_NEAR(json["decode_tok_s"].get<double>(), 200 / 20.1, 1e-9);
  EXPECT_TRUE(json["ppl"].is_null());
}

TEST(RowTest, AFileThatCannotBeWrittenIsNamed) {
  EXPECT_NE(qwen3::error_of([] { write_rows("/proc/none/x.json", {}, {}); }).find("/proc/none/x.json"),
            std::string::npos);
}

TEST(ShapeTest, UnknownShapesAreNamed) {
  EXPECT_EQ(find_shape("qwen3-8b").layers, 36u);
  EXPECT_NE(qwen3::error_of([] { find_shape("qwen3-9b"); }).find("choose from qwen3-0.6b"),
            std::string::npos);
}

TEST(TextTest, AFileIsReadAsItIs) {
  const qwen3::TemporaryFolder folder;
  EXPECT_EQ(load_text(folder.write("a.txt", "Gen1:1 a\n")), "Gen1:1 a\n");
  EXPECT_NE(qwen3::error_of([] { (void)load_text("/none.txt"); }).find("/none.txt"), std::string::npos);
}

TEST(MemoryTest, ThePeakSeesWhatWasHeld) {
  reset_peak_rss();
  const uint64_t before = peak_rss();
  EXPECT_GT(before, 0u);
  std::vector<char> held(64 << 20, 1);
  EXPECT_GT(peak_rss(), before + (60 << 20)) << static_cast<int>(held[1]);
}

}  // namespace
}  // namespace quire::bench
