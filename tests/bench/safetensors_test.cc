#include "bench/qwen3/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "bench/qwen3/config.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/weights.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string out(reinterpret_cast<const char*>(&size), sizeof size);
  return out + header + data;
}

TensorMap parse(const std::string& file) { return parse_safetensors(std::as_bytes(std::span(file)), "m"); }

const std::string kPair =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"I64","shape":[1,1],"data_offsets":[8,16]}})";

TEST(SafetensorsTest, ReadsTensors) {
  const std::string file = file_of(kPair, std::string(12, '\0') + std::string("\1\0\0\0", 4));
  const TensorMap tensors = parse(file);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(to_f32(tensors.at("a")), (std::vector<float>{0, 0}));
  EXPECT_EQ(tensors.at("b").shape, (std::vector<uint64_t>{1, 1}));
  EXPECT_EQ(to_i64(tensors.at("b")), (std::vector<int64_t>{int64_t{1} << 32}));
}

TEST(SafetensorsTest, FaultsAreNamed) {
  const auto one = [](const std::string& entry) { return file_of("{\"a\":" + entry + "}", "12345678"); };
  const std::vector<std::pair<std::string, std::string>> faults{
      {"", "truncated"},
      {"1234567", "truncated"},
      {std::string(8, '\xff'), "truncated"},
      {file_of(kPair, "short").substr(0, 40), "truncated"},
      {file_of(kPair, "short"), "truncated"},
      {file_of("{", ""), "not valid JSON"},
      {file_of("[]", ""), "not a JSON object"},
      {file_of("{\"a\":1}", ""), "not a JSON object"},
      {file_of("\xff\xfe", ""), "not valid JSON"},
      {one(R"({"dtype":"F8","shape":[8],"data_offsets":[0,8]})"), "dtype F8"},
      {one(R"({"dtype":7,"shape":[8],"data_offsets":[0,8]})"), "not a string"},
      {one(R"({"shape":[2],"data_offsets":[0,8]})"), "lacks the key \"dtype\""},
      {one(R"({"dtype":"F32","data_offsets":[0,8]})"), "lacks the key \"shape\""},
      {one(R"({"dtype":"F32","shape":[2]})"), "lacks the key \"data_offsets\""},
      {one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), "not an array"},
      {one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), "where a size must stand"},
      {one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "where a size must stand"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), "not a pair"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), "truncated"},
      {one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), "disagree with the shape"},
      {one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"), "overflows"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "after the last"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), "between tensors"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
               "12345678"),
       "overlap"},
  };
  for (const auto& fault : faults) {
    const std::string& expected = fault.second;
    const std::string message = error_of([&] { parse(fault.first); });
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_EQ(message.front(), 'm') << "names the file: " << message;
  }
}

TEST(SafetensorsTest, EmptyTensorsAreAllowed) {
  EXPECT_EQ(parse(file_of(R"({"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}})", "")).size(), 1u);
}

TEST(SafetensorsTest, FilesThatAreMissingEmptyOrFoldersAreNamed) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of([&] { TensorFiles(folder.path()); }).find("model.safetensors"), std::string::npos);
  const auto empty = folder.write("model.safetensors", "");
  EXPECT_NE(error_of([&] { TensorFiles(folder.path()); }).find("is empty"), std::string::npos);
}

TEST(SafetensorsTest, ShardsAreReadThroughTheirIndex) {
  const TemporaryFolder folder;
  const auto shard = [](const std::string& name) {
    return file_of("{\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234");
  };
  folder.write("one.safetensors", shard("a"));
  folder.write("two.safetensors", shard("b"));
  const std::string index = "model.safetensors.index.json";
  folder.write(index, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const TensorFiles files(folder.path());
  EXPECT_TRUE(files.contains("a"));
  EXPECT_TRUE(files.contains("b"));

  folder.write(index, R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})");
  EXPECT_NE(error_of([&] { TensorFiles(folder.path()); }).find("names c"), std::string::npos);
  folder.write(index, R"({"weight_map":{"a":"../one.safetensors"}})");
  EXPECT_NE(error_of([&] { TensorFiles(folder.path()); }).find("not a file name"), std::string::npos);
  folder.write(index, R"({"weight_map":{"a":"three.safetensors"}})");
  EXPECT_NE(error_of([&] { TensorFiles(folder.path()); }).find("three.safetensors"), std::string::npos);
  folder.write("two.safetensors", shard("a"));
  folder.write(index, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_NE(error_of([&] { TensorFiles(folder.path()); }).find("another shard"), std::string::npos);
}

TEST(SafetensorsTest, AModelThatDoesNotFitItsConfigIsNamed) {
  const TensorFiles files(tiny_model());
  ModelConfig config = read_config(tiny_model());
  config.intermediate_size = 641;
  EXPECT_NE(error_of([&] { (void)load_weights(files, config); }).find("asks for [641, 256]"),
            std::string::npos);
  config.intermediate_size = kMaxModelSize;  // refused before memory is asked for
  EXPECT_NE(error_of([&] { (void)load_weights(files, config); }).find("asks for [16777216, 256]"),
            std::string::npos);
  config = read_config(tiny_model());
  config.layers = 5;
  EXPECT_NE(error_of([&] { (void)load_weights(files, config); }).find("lacks tensor model.layers.4"),
            std::string::npos);
  config = read_config(tiny_model());
  config.tied_embeddings = false;
  EXPECT_NE(error_of([&] { (void)load_weights(files, config); }).find("lm_head.weight"), std::string::npos);
}

TEST(Float16Test, EveryHalfConvertsExactly) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint32_t exponent = bits >> 10 & 31;
    const double mantissa = bits & 1023;
    if (exponent == 31) continue;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
    EXPECT_EQ(f16_to_f32(static_cast<uint16_t>(bits)), (bits & 0x8000 ? -1 : 1) * magnitude) << bits;
  }
  EXPECT_TRUE(std::isinf(f16_to_f32(0x7c00)));
  EXPECT_TRUE(std::isnan(f16_to_f32(0x7e00)));
}

TEST(Float16Test, Bf16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);  // a tie goes to the even one
  EXPECT_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

}  // namespace
}  // namespace quire::qwen3
