// Logarithmic steps and section exponents against f64 mathematics.
#include "quant/steps.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/section_exponent.h"
#include "tests/quant/random.h"

namespace quire::test {
namespace {

TEST(Steps, AreRoundedPowersOfTheSixteenthRoot) {
  for (int n = -2016; n < 2032; ++n) {
    const double octave = std::floor(n / 16.0);
    const auto mantissa = static_cast<float>(std::exp2(n / 16.0 - octave));
    EXPECT_EQ(step_value(n), std::ldexp(mantissa, static_cast<int>(octave))) << n;
  }
  EXPECT_EQ(step_value(-2017), 0.0F);
  EXPECT_EQ(step_value(-32768), 0.0F);
}

TEST(Steps, BoundariesLieHalfwayOnTheLogarithmicScale) {
  for (int i = 0; i < kStepsPerOctave; ++i) {
    EXPECT_EQ(kStepBoundary[i], static_cast<float>(std::exp2((i + 0.5) / 16.0))) << i;
  }
}

TEST(Steps, RoundFindsTheNearestStep) {
  Random random(3);
  for (int round = 0; round < 100000; ++round) {
    const auto value = static_cast<float>(std::exp2(random.uniform() * 200 - 100));
    const double exact = std::log2(static_cast<double>(value)) * 16.0;
    EXPECT_NEAR(round_step(value), exact, 0.5 + 1e-5) << value;
  }
}

TEST(Steps, RoundMovesUpAtTheBoundary) {
  for (int i = 0; i < kStepsPerOctave; ++i) {
    EXPECT_EQ(round_step(kStepBoundary[i]), i + 1);
    EXPECT_EQ(round_step(std::nextafter(kStepBoundary[i], 0.0F)), i);
    EXPECT_EQ(round_step(kStepBoundary[i] * 0x1p-40F), i + 1 - 640);
  }
}

TEST(Steps, CeilIsTheSmallestStepThatCovers) {
  Random random(4);
  for (int round = 0; round < 100000; ++round) {
    const auto value = static_cast<float>(std::exp2(random.uniform() * 200 - 100));
    const int n = ceil_step(value);
    EXPECT_GE(step_value(n), value);
    EXPECT_LT(step_value(n - 1), value);
  }
  for (int n = -200; n < 200; ++n) EXPECT_EQ(ceil_step(step_value(n)), n);
}

TEST(SectionExponent, IsTheFloorOfTheLogarithmWithinBounds) {
  EXPECT_EQ(section_exponent(0.0F), 0);
  EXPECT_EQ(section_exponent(1.0F), 0);
  EXPECT_EQ(section_exponent(std::nextafter(1.0F, 0.0F)), -1);
  EXPECT_EQ(section_exponent(3.9F), 1);
  EXPECT_EQ(section_exponent(0x1p-149F), kMinSectionExponent);
  EXPECT_EQ(section_exponent(0x1.FEp127F), kMaxSectionExponent);
  for (int exponent = kMinSectionExponent; exponent <= kMaxSectionExponent; ++exponent) {
    EXPECT_EQ(section_exponent(std::ldexp(1.7F, exponent)), exponent);
  }
}

}  // namespace
}  // namespace quire::test
