#include "kvcache/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <vector>

namespace quire {
namespace {

const Kernels& kernels() { return *find_kernels(Isa::kScalar); }

// The two 16-bit types as their definitions state them.
struct HalfType {
  const char* name;
  DType dtype;
  int exponent_bits;
  int mantissa_bits;
  bool saturates;  // what is finite stays finite

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint16_t infinity() const { return static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits); }

  // The value of a finite pattern; the pattern of infinity counts as the next step of the largest exponent,
  // which is what rounding measures its distance to.
  double value(uint16_t pattern) const {
    const int mantissa = pattern & ((1 << mantissa_bits) - 1);
    const int exponent = (pattern & 0x7fff) >> mantissa_bits;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, 1 - bias() - mantissa_bits)
                      : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
    return (pattern & 0x8000) != 0 ? -magnitude : magnitude;
  }
};

void PrintTo(const HalfType& type, std::ostream* out) { *out << type.name; }

class HalfTypes : public testing::TestWithParam<HalfType> {
 protected:
  std::vector<uint16_t> stored(const std::vector<float>& values) const {
    std::vector<uint16_t> patterns(values.size());
    store_row({patterns.data(), GetParam().dtype, values.size(), values.size()}, 0, 0,
              static_cast<uint32_t>(values.size()), kernels(), values.data());
    return patterns;
  }

  std::vector<float> loaded(const std::vector<uint16_t>& patterns) const {
    std::vector<float> values(patterns.size());
    load_row({patterns.data(), GetParam().dtype, patterns.size(), patterns.size()}, 0, 0,
             static_cast<uint32_t>(patterns.size()), kernels(), values.data());
    return values;
  }
};

TEST_P(HalfTypes, EveryPatternLoadsExactlyAndComesBack) {
  std::vector<uint16_t> patterns(65536);
  for (uint32_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  const std::vector<float> values = loaded(patterns);
  const std::vector<uint16_t> back = stored(values);
  const uint16_t infinity = GetParam().infinity();
  for (uint32_t i = 0; i < patterns.size(); ++i) {
    const uint16_t magnitude = patterns[i] & 0x7fff;
    EXPECT_EQ(std::signbit(values[i]), (patterns[i] & 0x8000) != 0) << i;
    if (magnitude > infinity) {
      EXPECT_TRUE(std::isnan(values[i])) << i;
      EXPECT_GT(back[i] & 0x7fff, infinity) << i;
      continue;
    }
    if (magnitude == infinity) {
      EXPECT_TRUE(std::isinf(values[i])) << i;
    } else {
      EXPECT_EQ(values[i], GetParam().value(patterns[i])) << i;
    }
    EXPECT_EQ(back[i], patterns[i]);
  }
}

// Rounding can only go wrong at the boundary between two neighbours: all of them, and both sides of each.
TEST_P(HalfTypes, StoresRoundToNearestEvenAtEveryBoundary) {
  const uint16_t infinity = GetParam().infinity();
  const auto largest = static_cast<uint16_t>(infinity - 1);
  const uint16_t too_large = GetParam().saturates ? largest : infinity;
  std::vector<float> values;
  std::vector<uint16_t> expected;
  const auto expect = [&](float value, uint16_t pattern) {
    values.insert(values.end(), {value, -value});
    expected.insert(expected.end(), {pattern, static_cast<uint16_t>(pattern | 0x8000)});
  };
  for (uint16_t low = 0; low < largest; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const double middle = (GetParam().value(low) + GetParam().value(high)) / 2;
    const auto boundary = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(boundary), middle) << "every boundary of a 16-bit type is an f32";
    expect(boundary, low % 2 == 0 ? low : high);
    expect(std::nextafter(boundary, 0.0F), low);
    expect(std::nextafter(boundary, std::numeric_limits<float>::infinity()), high);
  }
  const double beyond = (GetParam().value(largest) + GetParam().value(infinity)) / 2;
  expect(std::nextafter(static_cast<float>(beyond), 0.0F), largest);
  expect(static_cast<float>(beyond), too_large);
  expect(std::numeric_limits<float>::max(), too_large);
  expect(std::numeric_limits<float>::infinity(), infinity);
  expect(0.0F, 0);
  const std::vector<uint16_t> patterns = stored(values);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(patterns[i], expected[i]) << values[i];
}

TEST_P(HalfTypes, NaNStaysNaN) {
  // Quiet, signalling, payload only in bits that do not fit, with and without sign.
  for (const uint32_t bits : {0x7fc00000U, 0x7f800001U, 0x7fffffffU, 0xff800001U, 0xffc12345U}) {
    const uint16_t pattern = stored({std::bit_cast<float>(bits)})[0];
    EXPECT_GT(pattern & 0x7fff, GetParam().infinity()) << std::hex << bits;
    EXPECT_EQ(pattern >> 15, bits >> 31) << std::hex << bits;
  }
}

INSTANTIATE_TEST_SUITE_P(All, HalfTypes,
                         testing::Values(HalfType{"bf16", DType::kBf16, 8, 7, true},
                                         HalfType{"f16", DType::kF16, 5, 10, false}),
                         [](const auto& test) { return test.param.name; });

// Element n of a tensor holds n, all of which 16 bits hold exactly.
template <typename T>
void expect_strides_are_followed(DType dtype, T (*encode)(uint32_t)) {
  constexpr uint64_t kTokenStride = 60;
  constexpr uint64_t kHeadStride = 17;
  constexpr uint32_t kDim = 16;
  std::vector<T> data(4 * kTokenStride);
  for (uint32_t n = 0; n < data.size(); ++n) data[n] = encode(n);
  std::vector<float> row(kDim);
  load_row({data.data(), dtype, kTokenStride, kHeadStride}, 3, 2, kDim, kernels(), row.data());
  for (uint32_t i = 0; i < kDim; ++i) EXPECT_EQ(row[i], 3 * kTokenStride + 2 * kHeadStride + i);
  std::vector<float> buffer(kDim);
  const float* read =
      read_row({data.data(), dtype, kTokenStride, kHeadStride}, 3, 2, kDim, kernels(), buffer.data());
  EXPECT_EQ(read == buffer.data(), dtype != DType::kF32);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), read));

  std::vector<T> copy(data.size(), encode(0));
  store_row({copy.data(), dtype, kTokenStride, kHeadStride}, 3, 2, kDim, kernels(), row.data());
  for (size_t n = 0; n < data.size(); ++n) {
    const bool inside =
        n >= 3 * kTokenStride + 2 * kHeadStride && n < 3 * kTokenStride + 2 * kHeadStride + kDim;
    EXPECT_EQ(copy[n], inside ? data[n] : encode(0)) << n;
  }
}

TEST(Tensor, F32RowsFollowStrides) {
  expect_strides_are_followed<float>(DType::kF32, [](uint32_t n) { return static_cast<float>(n); });
}

TEST(Tensor, Bf16RowsFollowStrides) {
  expect_strides_are_followed<uint16_t>(DType::kBf16, [](uint32_t n) {
    return static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(n)) >> 16);
  });
}

TEST(Tensor, F16RowsFollowStrides) {
  // Integers below 2048: the f32 exponent re-based, the mantissa cut; nothing is lost.
  expect_strides_are_followed<uint16_t>(DType::kF16, [](uint32_t n) {
    if (n == 0) return uint16_t{0};
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(n));
    return static_cast<uint16_t>((bits - (uint32_t{112} << 23)) >> 13);
  });
}

}  // namespace
}  // namespace quire
