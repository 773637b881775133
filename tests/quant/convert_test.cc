// Conversions between f32, bf16 and f16: all 16-bit patterns, and both sides of every rounding boundary.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/half.h"
#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a pattern with `fraction_bits` of fraction and the rest of exponent, by definition.
double value_of(uint32_t magnitude, int fraction_bits, int bias) {
  const uint32_t exponent = magnitude >> fraction_bits;
  const double fraction = std::ldexp(magnitude & ((1U << fraction_bits) - 1), -fraction_bits);
  return exponent == 0 ? std::ldexp(fraction, 1 - bias)
                       : std::ldexp(1 + fraction, static_cast<int>(exponent) - bias);
}

struct Format {
  int fraction_bits;
  int bias;
  uint32_t infinity;  // pattern
};
constexpr Format kF16{10, 15, 0x7C00};
constexpr Format kBf16{7, 127, 0x7F80};

TEST(Half, EveryF16PatternHasItsValue) {
  for (uint32_t magnitude = 0; magnitude < kF16.infinity; ++magnitude) {
    const double value = value_of(magnitude, kF16.fraction_bits, kF16.bias);
    EXPECT_EQ(f16_to_f32(static_cast<uint16_t>(magnitude)), value);
    EXPECT_EQ(f16_to_f32(static_cast<uint16_t>(magnitude | 0x8000U)), -value);
  }
  EXPECT_EQ(f16_to_f32(0x7C00), kInfinity);
  EXPECT_EQ(f16_to_f32(0xFC00), -kInfinity);
  EXPECT_TRUE(std::isnan(f16_to_f32(0x7E01)));
}

TEST(Half, EveryBf16PatternHasItsValue) {
  for (uint32_t magnitude = 0; magnitude < kBf16.infinity; ++magnitude) {
    const double value = value_of(magnitude, kBf16.fraction_bits, kBf16.bias);
    EXPECT_EQ(bf16_to_f32(static_cast<uint16_t>(magnitude)), value);
  }
}

// Between neighbours a < b: the midpoint goes to the even pattern, a hair beside it to the nearer one.
template <typename Convert>
void check_rounding(Format format, Convert convert) {
  for (uint32_t pattern = 0; pattern + 1 < format.infinity; ++pattern) {
    const double a = value_of(pattern, format.fraction_bits, format.bias);
    const double b = value_of(pattern + 1, format.fraction_bits, format.bias);
    const auto middle = static_cast<float>((a + b) / 2);
    EXPECT_EQ(convert(static_cast<float>(a)), pattern);
    EXPECT_EQ(convert(middle), pattern % 2 == 0 ? pattern : pattern + 1) << pattern;
    EXPECT_EQ(convert(std::nextafter(middle, 0.0F)), pattern) << pattern;
    EXPECT_EQ(convert(std::nextafter(middle, kInfinity)), pattern + 1) << pattern;
    EXPECT_EQ(convert(-middle), (pattern % 2 == 0 ? pattern : pattern + 1) | 0x8000U);
  }
}

TEST(Half, F16RoundsToNearestEven) {
  check_rounding(kF16, [](float value) { return f32_to_f16(value); });
}
TEST(Half, Bf16RoundsToNearestEven) {
  check_rounding(kBf16, [](float value) { return f32_to_bf16(value); });
}

TEST(Half, EndsOfTheRanges) {
  EXPECT_EQ(f32_to_f16(65519.996F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(f32_to_f16(-kInfinity), 0xFC00);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7F7F);
  EXPECT_EQ(f32_to_bf16(-std::numeric_limits<float>::max()), 0xFF7F);
  EXPECT_EQ(f32_to_bf16(kInfinity), 0x7F80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001U)))));
  EXPECT_EQ(f32_to_f16(-0.0F), 0x8000);
}

class Convert : public PerIsa {};

TEST_P(Convert, F32ToBf16RoundsToNearestEven) {
  check_rounding(kBf16, [this](float value) {
    uint16_t bits = 0;
    kernels().f32_to_bf16(&value, 1, &bits);
    return bits;
  });
}

TEST_P(Convert, VectorsOfAnyLengthEqualTheScalarConversions) {
  Random random(5);
  for (size_t n = 0; n <= 70; ++n) {
    std::vector<uint16_t> patterns(n);
    std::vector<float> values(n);
    for (size_t i = 0; i < n; ++i) {
      patterns[i] = static_cast<uint16_t>(random.bits());
      values[i] = std::bit_cast<float>(static_cast<uint32_t>(random.bits()));
      if (std::isnan(values[i])) values[i] = std::numeric_limits<float>::max();
      if (f16_to_f32(patterns[i]) != f16_to_f32(patterns[i])) patterns[i] = 0x0001;
    }
    std::vector<float> out(n + 1, 42.0F);
    kernels().bf16_to_f32(patterns.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(out[i]), uint32_t{patterns[i]} << 16);
    }
    kernels().f16_to_f32(patterns.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(out[i], f16_to_f32(patterns[i]));
    EXPECT_EQ(out[n], 42.0F);
    std::vector<uint16_t> bits(n + 1, 42);
    kernels().f32_to_bf16(values.data(), n, bits.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(bits[i], f32_to_bf16(values[i])) << values[i];
    EXPECT_EQ(bits[n], 42);
  }
}

TEST_P(Convert, AllF16Patterns) {
  std::vector<uint16_t> patterns;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    if ((pattern & 0x7FFFU) <= 0x7C00U) patterns.push_back(static_cast<uint16_t>(pattern));
  }
  std::vector<float> out(patterns.size());
  kernels().f16_to_f32(patterns.data(), patterns.size(), out.data());
  for (size_t i = 0; i < patterns.size(); ++i) EXPECT_EQ(out[i], f16_to_f32(patterns[i]));
}

TEST_P(Convert, FiniteSeesEveryPlace) {
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (size_t n = 1; n <= 70; ++n) {
      std::vector<float> values(n, std::numeric_limits<float>::max());
      EXPECT_TRUE(kernels().finite(values.data(), n));
      for (size_t i = 0; i < n; ++i) {
        values[i] = bad;
        EXPECT_FALSE(kernels().finite(values.data(), n)) << i << " of " << n;
        EXPECT_TRUE(kernels().finite(values.data(), i));
        values[i] = 0x1p-149F;
      }
    }
  }
  EXPECT_TRUE(kernels().finite(nullptr, 0));
}

INSTANTIATE_TEST_SUITE_P(Isa, Convert, testing::ValuesIn(kIsas), isa_test_name);

}  // namespace
}  // namespace quire::test
