#include "kvcache/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace quire {
namespace {

Rope make_rope(uint32_t rotary_dim, double base) {
  Rope rope;
  rope.rotary_dim = rotary_dim;
  for (uint32_t i = 0; i < rotary_dim / 2; ++i) {
    rope.inv_freq.push_back(std::pow(base, -2.0 * i / rotary_dim));
  }
  return rope;
}

// exp(i * position * frequency) for |position| < 2^50. Position and frequency are cut into parts so short
// that their products are exact in 64 bits of mantissa; the parts' rotations are then multiplied.
std::complex<long double> exact_rotation(int64_t position, double frequency) {
  static_assert(std::numeric_limits<long double>::digits >= 64,
                "the reference needs x87 precision or better");
  const int64_t low_position = position % (int64_t{1} << 25);
  const auto high_frequency = static_cast<double>(static_cast<float>(frequency));
  const double low_frequency = frequency - high_frequency;
  std::complex<long double> rotation = 1;
  for (const int64_t part : {low_position, position - low_position}) {
    for (const double f : {high_frequency, low_frequency}) {
      const long double angle = static_cast<long double>(part) * static_cast<long double>(f);
      rotation *= std::complex<long double>(std::cos(angle), std::sin(angle));
    }
  }
  return rotation;
}

TEST(Rope, AnglesAreExactToTheLastBitsOfF32AtAnyPosition) {
  std::vector<int64_t> positions{0, 1, 63, 64, 1000003, (1 << 20) - 1, 1 << 20, (1 << 20) + 1};
  positions.insert(positions.end(), {(int64_t{1} << 33) + 7, (int64_t{1} << 40) - 1, int64_t{1} << 40, -5});
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) positions.push_back(static_cast<int64_t>(random() % (uint64_t{1} << 40)));
  for (const auto& [dim, base] : {std::pair{128U, 1e6}, std::pair{64U, 1e4}, std::pair{32U, 5e6}}) {
    const Rope rope = make_rope(dim, base);
    std::vector<float> cos(dim / 2);
    std::vector<float> sin(dim / 2);
    long double worst = 0;
    for (const int64_t position : positions) {
      rope_angles(rope, position, cos.data(), sin.data());
      for (uint32_t i = 0; i < dim / 2; ++i) {
        const std::complex<long double> exact = exact_rotation(position, rope.inv_freq[i]);
        worst = std::max({worst, std::abs(cos[i] - exact.real()), std::abs(sin[i] - exact.imag())});
      }
    }
    EXPECT_LT(static_cast<double>(worst), 1e-7) << dim;
  }
}

TEST(Rope, TheAttentionFactorIsLeftOut) {
  Rope rope = make_rope(32, 1e4);
  rope.attention_factor = 7;
  std::vector<float> cos(16);
  std::vector<float> sin(16);
  rope_angles(rope, 0, cos.data(), sin.data());
  EXPECT_EQ(cos, std::vector<float>(16, 1.0F));
  EXPECT_EQ(sin, std::vector<float>(16, 0.0F));
}

TEST(Rope, RotatesSplitHalvesAndLeavesTheRest) {
  constexpr uint32_t kHeadDim = 96;
  constexpr uint32_t kRotaryDim = 64;
  constexpr uint32_t kHalf = kRotaryDim / 2;
  constexpr size_t kRows = 3;
  constexpr int64_t kPosition = 12345;
  const Rope rope = make_rope(kRotaryDim, 1e4);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kHeadDim);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  const std::vector<float> before = x;

  std::vector<float> cos(kHalf);
  std::vector<float> sin(kHalf);
  rope_angles(rope, kPosition, cos.data(), sin.data());
  rotate_rows(x.data(), kRows, kHeadDim, cos.data(), sin.data(), kRotaryDim);

  for (size_t row = 0; row < kRows; ++row) {
    const float* in = &before[row * kHeadDim];
    const float* out = &x[row * kHeadDim];
    for (uint32_t i = 0; i < kHalf; ++i) {
      const std::complex<double> turned = std::complex<double>(in[i], in[i + kHalf]) *
                                          std::complex<double>(exact_rotation(kPosition, rope.inv_freq[i]));
      EXPECT_NEAR(out[i], turned.real(), 1e-6);
      EXPECT_NEAR(out[i + kHalf], turned.imag(), 1e-6);
    }
    for (uint32_t i = kRotaryDim; i < kHeadDim; ++i) EXPECT_EQ(out[i], in[i]);
  }
}

// The point of the embedding, and where angles kept in f32 fail: far out, scores depend on distances alone.
TEST(Rope, ScoresDependOnDistanceFarOut) {
  constexpr uint32_t kDim = 128;
  const Rope rope = make_rope(kDim, 1e6);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> q(kDim);
  std::vector<float> k(kDim);
  std::generate(q.begin(), q.end(), [&] { return normal(random); });
  std::generate(k.begin(), k.end(), [&] { return normal(random); });
  const auto score = [&](int64_t q_position, int64_t k_position) {
    std::vector<float> cos(kDim / 2);
    std::vector<float> sin(kDim / 2);
    std::vector<float> turned_q = q;
    std::vector<float> turned_k = k;
    rope_angles(rope, q_position, cos.data(), sin.data());
    rotate_rows(turned_q.data(), 1, kDim, cos.data(), sin.data(), kDim);
    rope_angles(rope, k_position, cos.data(), sin.data());
    rotate_rows(turned_k.data(), 1, kDim, cos.data(), sin.data(), kDim);
    double sum = 0;
    for (uint32_t i = 0; i < kDim; ++i) sum += static_cast<double>(turned_q[i]) * turned_k[i];
    return sum;
  };
  const double near = score(100, 37);
  for (const int64_t base : {int64_t{1} << 20, int64_t{1} << 30, int64_t{1} << 40}) {
    EXPECT_NEAR(score(base + 100, base + 37), near, 2e-5) << base;
  }
}

TEST(Rope, OffsetsAreTheAnglesOfSmallPositions) {
  const Rope rope = make_rope(64, 1e4);
  const RopeOffsets offsets = make_rope_offsets(rope, 128);
  ASSERT_EQ(offsets.tokens, 128U);
  ASSERT_EQ(offsets.half, 32U);
  ASSERT_EQ(offsets.cos.size(), 128U * 32U);
  ASSERT_EQ(offsets.sin.size(), 128U * 32U);
  for (uint32_t t = 0; t < 128; ++t) {
    for (uint32_t i = 0; i < 32; ++i) {
      EXPECT_NEAR(offsets.cos[i * 128 + t], std::cos(t * rope.inv_freq[i]), 1e-7);
      EXPECT_NEAR(offsets.sin[i * 128 + t], std::sin(t * rope.inv_freq[i]), 1e-7);
    }
  }
}

TEST(Rope, ValidateNamesWhatIsWrong) {
  const auto fault = [](auto change) {
    Rope rope = make_rope(64, 1e4);
    change(rope);
    const Status status = validate_rope(rope, 64);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), StatusCode::kInvalid);
    }
    return status.message();
  };
  const auto names = [](const std::string& message, const char* word) {
    return message.find(word) != std::string::npos;
  };
  EXPECT_EQ(fault([](Rope&) {}), "");
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.rotary_dim = 0; }), "rotary_dim"));
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.rotary_dim = 63; }), "rotary_dim"));
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.rotary_dim = 66; }), "rotary_dim"));
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.inv_freq.pop_back(); }), "31 inverse frequencies"));
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.inv_freq[5] = NAN; }), "frequency 5"));
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.attention_factor = 0; }), "attention_factor"));
  EXPECT_TRUE(names(fault([](Rope& rope) { rope.attention_factor = INFINITY; }), "attention_factor"));
}

}  // namespace
}  // namespace quire
