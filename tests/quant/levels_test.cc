// The levels of rot codecs against Lloyd's algorithm on a Gaussian, in f64.
#include "quant/levels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace quire::test {
namespace {

double density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }
double below(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }

// The positive half of the Lloyd-Max levels of a unit Gaussian: each is the centroid of its cell.
std::vector<double> lloyd_max(size_t half) {
  std::vector<double> levels(half);
  for (size_t i = 0; i < half; ++i)
    levels[i] = (static_cast<double>(i) + 0.5) * 2.5 / static_cast<double>(half);
  for (int round = 0; round < 20000; ++round) {
    double low = 0;
    for (size_t i = 0; i < half; ++i) {
      const bool last = i + 1 == half;
      const double high = last ? std::numeric_limits<double>::infinity() : (levels[i] + levels[i + 1]) / 2;
      levels[i] = (density(low) - density(high)) / (below(high) - below(low));
      low = high;
    }
  }
  return levels;
}

class Levels : public testing::TestWithParam<uint32_t> {};

TEST_P(Levels, AreLloydMaxRoundedToIntegers) {
  const LevelTable table = level_table(GetParam());
  const size_t half = table.levels.size() / 2;
  ASSERT_EQ(table.levels.size(), size_t{1} << GetParam());
  const std::vector<double> exact = lloyd_max(half);
  const double unit = 127 / exact.back();
  EXPECT_EQ(table.unit, static_cast<float>(unit));
  for (size_t i = 0; i < half; ++i) {
    EXPECT_EQ(table.levels[half + i], std::lround(exact[i] * unit)) << i;
    EXPECT_EQ(table.levels[half - 1 - i], -table.levels[half + i]) << i;
  }
}

TEST_P(Levels, ThresholdsLieMidway) {
  const LevelTable table = level_table(GetParam());
  ASSERT_EQ(table.thresholds.size() + 1, table.levels.size());
  for (size_t i = 0; i < table.thresholds.size(); ++i) {
    EXPECT_EQ(2 * double{table.thresholds[i]}, table.levels[i] + table.levels[i + 1]);
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, Levels, testing::Values(4U, 3U, 2U), testing::PrintToStringParamName());

}  // namespace
}  // namespace quire::test
