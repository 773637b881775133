#include "bench/qwen3/sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

// Shares of the tokens over many draws.
std::vector<double> shares(const SamplingOptions& options, const std::vector<float>& logits) {
  constexpr int kDraws = 100'000;
  Sampler sampler(options);
  std::vector<double> out(logits.size());
  for (int i = 0; i < kDraws; ++i) out[static_cast<size_t>(sampler.pick(logits))] += 1.0 / kDraws;
  return out;
}

// Logits whose softmax is 0.1, 0.5, 0.15, 0.25.
const std::vector<float> kLogits{std::log(0.1f), std::log(0.5f), std::log(0.15f), std::log(0.25f)};

void expect_shares(const SamplingOptions& options, const std::vector<double>& expected) {
  const std::vector<double> actual = shares(options, kLogits);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], expected[i] == 0 ? 0 : 0.01) << "token " << i;
  }
}

TEST(SamplerTest, GreedyTakesTheFirstOfTheLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.pick(std::vector<float>{1, 3, 2, 3}), 1);
}

TEST(SamplerTest, DrawsFollowTheDistribution) {
  expect_shares({.temperature = 1, .seed = 1}, {0.1, 0.5, 0.15, 0.25});
}

TEST(SamplerTest, TemperatureSharpens) {
  const double sum = 0.01 + 0.25 + 0.0225 + 0.0625;
  expect_shares({.temperature = 0.5, .seed = 2}, {0.01 / sum, 0.25 / sum, 0.0225 / sum, 0.0625 / sum});
}

TEST(SamplerTest, TopKKeepsTheLargest) {
  expect_shares({.temperature = 1, .top_k = 2, .seed = 3}, {0, 2.0 / 3, 0, 1.0 / 3});
  expect_shares({.temperature = 1, .top_k = 99, .seed = 3}, {0.1, 0.5, 0.15, 0.25});
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  expect_shares({.temperature = 1, .top_p = 0.4, .seed = 4}, {0, 1, 0, 0});
  expect_shares({.temperature = 1, .top_p = 0.7, .seed = 4}, {0, 2.0 / 3, 0, 1.0 / 3});
  expect_shares({.temperature = 1, .top_p = 0.8, .seed = 4}, {0, 5.0 / 9, 1.5 / 9, 2.5 / 9});
}

TEST(SamplerTest, ASeedGivesOneSequence) {
  const auto draw = [](uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<int32_t> tokens(50);
    for (int32_t& token : tokens) token = sampler.pick(kLogits);
    return tokens;
  };
  EXPECT_EQ(draw(5), draw(5));
  EXPECT_NE(draw(5), draw(6));
}

TEST(SamplerTest, OptionsOutOfRangeAreErrors) {
  EXPECT_NE(error_of([] { Sampler({.temperature = -1}); }).find("temperature"), std::string::npos);
  EXPECT_NE(error_of([] { Sampler({.temperature = NAN}); }).find("temperature"), std::string::npos);
  EXPECT_NE(error_of([] { Sampler({.temperature = 1, .top_p = 0}); }).find("top_p"), std::string::npos);
}

// xoshiro256** and splitmix64 as published, computed by hand-written arithmetic over unbounded integers.
TEST(RandomTest, TheSequenceIsTheDocumentedOne) {
  Random random(42);
  const std::array<uint64_t, 3> first{random.next(), random.next(), random.next()};
  EXPECT_EQ(first,
            (std::array<uint64_t, 3>{1546998764402558742u, 6990951692964543102u, 12544586762248559009u}));
}

}  // namespace
}  // namespace quire::qwen3
