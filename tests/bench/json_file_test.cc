#include "bench/qwen3/json_file.h"

#include <gtest/gtest.h>

#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

TEST(JsonFileTest, FilesThatCannotBeReadAreNamed) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of([&] { (void)read_json(folder.path() / "none.json"); }).find("none.json: No such file"),
            std::string::npos);
  EXPECT_NE(error_of([&] { (void)read_json(folder.path()); }).find("Is a directory"), std::string::npos);
  const auto bad = folder.write("bad.json", "{\"a\": }");
  EXPECT_NE(error_of([&] { (void)read_json(bad); }).find("bad.json is not valid JSON"), std::string::npos);
}

TEST(JsonFileTest, DeepNestingIsNoCrash) {
  const std::string deep(100'000, '[');
  EXPECT_NE(error_of([&] { (void)parse_json(deep, "deep"); }).find("deep is not valid"), std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
