#include "bench/qwen3/score.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quire::qwen3 {
namespace {

std::vector<float> logs(const std::vector<double>& shares) {
  std::vector<float> out;
  out.reserve(shares.size());
  for (const double share : shares) out.push_back(static_cast<float>(std::log(share) + 3));
  return out;
}

TEST(ScoreTest, PerplexityIsTheInverseGeometricMean) {
  Perplexity perplexity;
  perplexity.add(logs({0.5, 0.25, 0.25}), 0);
  perplexity.add(logs({0.125, 0.5, 0.375}), 0);
  EXPECT_NEAR(perplexity.value(), 4, 1e-6);
  EXPECT_EQ(perplexity.tokens(), 2u);
}

TEST(ScoreTest, DivergenceIsOfTheRunFromTheReference) {
  Divergence divergence;
  divergence.add(logs({0.5, 0.5}), logs({0.5, 0.5}));
  EXPECT_NEAR(divergence.mean(), 0, 1e-7);
  divergence.add(logs({0.75, 0.25}), logs({0.25, 0.75}));
  EXPECT_NEAR(divergence.mean() * 2, 0.75 * std::log(3) - 0.25 * std::log(3), 1e-6);
  EXPECT_EQ(divergence.same_top1(), 0.5);
}

TEST(ScoreTest, TheQuantileIsOfRank) {
  Divergence divergence;
  for (int i = 1; i <= 2000; ++i) divergence.add(logs({0.5, 0.5}), logs({0.5 + i * 1e-4, 0.5 - i * 1e-4}));
  const double p = 0.5 + 1998e-4;
  EXPECT_NEAR(divergence.p999(), 0.5 * std::log(0.25 / (p * (1 - p))), 1e-6);
}

TEST(ScoreTest, LogitsComeBackFromTheirFile) {
  LogitsFile file("/tmp", 3);
  file.append(std::vector<float>{1, 2, 3});
  file.append(std::vector<float>{4, 5, 6});
  EXPECT_EQ(file.row(1)[0], 4);
  EXPECT_EQ(file.row(0)[2], 3);
}

}  // namespace
}  // namespace quire::qwen3
