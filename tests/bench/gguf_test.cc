// The container and its blocks: values against the package gguf (tests/models/README.md), faults by name.
#include "bench/qwen3/gguf.h"

#include <gtest/gtest.h>

#include "bench/qwen3/mapped_file.h"
#include "bench/qwen3/safetensors.h"
#include "tests/bench/gguf_writer.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

Gguf parse(const std::string& file) { return parse_gguf(std::as_bytes(std::span(file)), "m.gguf"); }

// A file with values of every kind and two tensors.
GgufWriter good() {
  GgufWriter writer;
  writer.string("general.architecture", "llama");
  writer.number<uint32_t>("llama.block_count", 4, 7);
  writer.number<float>("llama.rope.freq_base", 6, 1e5F);
  writer.number<uint8_t>("flag", 7, 1);
  writer.strings("list", {"a", "b"});
  writer.tensor("one", 0, {3}, std::string(12, '\0'));
  writer.tensor("two", 8, {32, 2}, std::string(68, '\1'));
  return writer;
}

TEST(GgufTest, ReadsMetadataAndTensors) {
  const std::string file = good().bytes();
  const Gguf gguf = parse(file);
  EXPECT_EQ(gguf.metadata.size(), 5u);
  EXPECT_EQ(gguf.metadata["general.architecture"], "llama");
  EXPECT_EQ(gguf.metadata["llama.block_count"], 7);
  EXPECT_EQ(gguf.metadata["flag"], true);
  EXPECT_EQ(gguf.metadata["list"], (nlohmann::json{"a", "b"}));
  ASSERT_EQ(gguf.tensors.size(), 2u);
  EXPECT_EQ(gguf.tensors.at("two").shape, (std::vector<uint64_t>{2, 32}));
  EXPECT_EQ(gguf.tensors.at("two").bytes.size(), 68u);
  EXPECT_EQ(gguf.tensors.at("two").bytes.data() - std::as_bytes(std::span(file)).data(),
            static_cast<ptrdiff_t>(file.size()) - 96);
}

TEST(GgufTest, ValuesOfEveryTypeAreThoseOfThePackageGguf) {
  const MappedFile file(test_models() / "gguf" / "blocks.gguf");
  const Gguf gguf = parse_gguf(file.bytes(), "blocks.gguf");
  const TensorFiles expected(test_models() / "gguf" / "blocks.safetensors");
  ASSERT_EQ(gguf.tensors.size(), 7u);
  for (const auto& [name, tensor] : gguf.tensors) {
    EXPECT_EQ(tensor.type->name, name);
    std::vector<float> values(3 * 512);
    unfold(*tensor.type, tensor.bytes, values);
    EXPECT_EQ(values, to_f32(expected.find(name, {3, 512}))) << name;
  }
}

TEST(GgufTest, FaultsAreNamed) {
  const auto with = [](auto change) {
    GgufWriter writer = good();
    change(writer);
    return writer.bytes();
  };
  const std::string whole = good().bytes();
  std::string of_version_1 = whole;
  of_version_1[4] = 1;
  const std::vector<std::pair<std::string, std::string>> faults{
      {"", "no GGUF file"},
      {"GGU", "no GGUF file"},
      {"GGML" + whole.substr(4), "no GGUF file"},
      {of_version_1, "GGUF version 1"},
      {whole.substr(0, 20), "truncated"},
      {whole.substr(0, 60), "truncated"},
      {whole.substr(0, whole.size() - 29), "tensor two reaches beyond the end"},
      {with([](auto& w) { w.string("list", "again"); }), "\"list\" comes twice"},
      {with([](auto& w) { w.template number<uint32_t>("odd", 13, 1); }), "\"odd\" has a value of type 13"},
      {with([](auto& w) { w.template number<uint32_t>("general.alignment", 4, 48); }), "not a power of two"},
      {with([](auto& w) { w.string("general.alignment", "32"); }), "not an integer"},
      {with([](auto& w) { w.tensor("one", 0, {1}, "1234"); }), "tensor one comes twice"},
      {with([](auto& w) { w.tensor("odd", 12, {256}, ""); }), "tensor odd has type 12 of ggml"},
      {with([](auto& w) { w.tensor("odd", 8, {33}, ""); }), "rows of 33 values"},
      {with([](auto& w) {
         w.tensor("odd", 0, {1, 1, 1, 1, 1}, "1234");
       }),
       "5 dimensions"},
      {with([](auto& w) {
         w.tensor("odd", 0, {uint64_t{1} << 40, uint64_t{1} << 40}, "");
       }),
       "overflows"},
      {with([](auto& w) { w.tensor("far", 0, {1 << 20}, ""); }), "tensor far reaches beyond the end"},
      {with([](auto& w) { w.tensor("moved", 0, {1}, "1234", 32); }), "does not follow the one before it"},
  };
  for (const auto& [file, expected] : faults) {
    const std::string message = error_of([&] { (void)parse(file); });
    EXPECT_NE(message.find(expected), std::string::npos) << expected << ": " << message;
    EXPECT_EQ(message.rfind("m.gguf", 0), 0u) << "names the file: " << message;
  }
}

// A count that no file could hold must end at the file's end, not in memory.
TEST(GgufTest, HugeCountsAreRefused) {
  std::string file = good().bytes();
  for (const size_t at : {size_t{8}, size_t{16}}) {
    std::string damaged = file;
    damaged.replace(at, 8, std::string(8, '\x7f'));
    EXPECT_NE(error_of([&] { (void)parse(damaged); }).find("m.gguf"), std::string::npos);
  }
}

}  // namespace
}  // namespace quire::qwen3
