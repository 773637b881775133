// Damaged model files: safetensors, GGUF, tokenizer.json and config.json are read or refused with a sentence,
// never followed out of bounds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "bench/qwen3/error.h"
#include "bench/qwen3/gguf_config.h"
#include "bench/qwen3/gguf_tokenizer.h"
#include "bench/qwen3/safetensors.h"
#include "bench/qwen3/tokenizer.h"
#include "tests/fuzz/seeds.h"

namespace quire::testing {
namespace {

std::vector<uint8_t> read_file(const std::string& name) {
  std::ifstream in(std::filesystem::path(QUIRE_TEST_MODELS) / name, std::ios::binary);
  EXPECT_TRUE(in.good()) << name;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Its entry ends the header of gguf/llama.gguf.
constexpr char kLastTensor[] = "output_norm.weight";

// A small file with two tensors.
std::vector<uint8_t> small_safetensors() {
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  std::vector<uint8_t> bytes(8 + header.size() + 32);
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

TEST(ModelFilesFuzz, SafetensorsAreReadOrRefused) {
  const uint64_t seeds = seed_count(20000);
  const std::vector<uint8_t> good = small_safetensors();
  uint64_t refused = 0;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const std::vector<uint8_t> bytes = damage(good, random);
    try {
      const auto tensors = qwen3::parse_safetensors(std::as_bytes(std::span(bytes)), "fuzzed.safetensors");
      for (const auto& [name, tensor] : tensors) {
        ASSERT_GE(reinterpret_cast<const uint8_t*>(tensor.bytes.data()), bytes.data());
        ASSERT_LE(reinterpret_cast<const uint8_t*>(tensor.bytes.data()) + tensor.bytes.size(),
                  bytes.data() + bytes.size());
      }
    } catch (const qwen3::Error& error) {
      ++refused;
      ASSERT_NE(std::string(error.what()).find("fuzzed.safetensors"), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(refused, seeds / 2);
  report_counts(seeds, seeds);
}

TEST(ModelFilesFuzz, GgufFilesAreReadOrRefused) {
  const uint64_t seeds = seed_count(2000);
  const std::vector<uint8_t> whole = read_file("gguf/llama.gguf");
  // The header: most of the file are weights, in which no byte is wrong.
  const auto data =
      std::search(whole.begin(), whole.end(), std::begin(kLastTensor), std::end(kLastTensor) - 1);
  ASSERT_NE(data, whole.end());
  const std::vector<uint8_t> header(whole.begin(), data);
  uint64_t refused = 0;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    std::vector<uint8_t> bytes = damage(header, random);
    bytes.insert(bytes.end(), data, whole.end());
    try {
      const qwen3::Gguf gguf = qwen3::parse_gguf(std::as_bytes(std::span(bytes)), "fuzzed.gguf");
      for (const auto& [name, tensor] : gguf.tensors) {
        ASSERT_GE(reinterpret_cast<const uint8_t*>(tensor.bytes.data()), bytes.data());
        ASSERT_LE(reinterpret_cast<const uint8_t*>(tensor.bytes.data()) + tensor.bytes.size(),
                  bytes.data() + bytes.size());
      }
      (void)qwen3::gguf_config(gguf, "fuzzed.gguf");
      const qwen3::Tokenizer tokenizer = qwen3::gguf_tokenizer(gguf, "fuzzed.gguf");
      EXPECT_LE(tokenizer.encode("In the beginning").size(), 16U);
    } catch (const qwen3::Error& error) {
      ++refused;
      EXPECT_NE(std::string(error.what()), "");
    }
  }
  EXPECT_GT(refused, seeds / 2);
  report_counts(seeds, seeds);
}

TEST(ModelFilesFuzz, TokenizersAreReadOrRefused) {
  const uint64_t seeds = seed_count(12);  // the file is 260 KB
  const std::vector<uint8_t> good = read_file("qwen3-tiny/tokenizer.json");
  uint64_t refused = 0;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const std::vector<uint8_t> bytes = damage(good, random);
    try {
      const auto json = nlohmann::json::parse(bytes.begin(), bytes.end(), nullptr, false);
      if (json.is_discarded()) {
        ++refused;
        continue;
      }
      const qwen3::Tokenizer tokenizer(json, "fuzzed.json");
      const std::string text = "In the beginning, 1 2 3";
      EXPECT_LE(tokenizer.encode(text).size(), text.size());
    } catch (const qwen3::Error& error) {
      ++refused;
      EXPECT_NE(std::string(error.what()), "");
    }
  }
  EXPECT_GT(refused, 0U);
  report_counts(seeds, seeds);
}

}  // namespace
}  // namespace quire::testing
