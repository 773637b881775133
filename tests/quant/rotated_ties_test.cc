// Codes of rotated codecs at thresholds and one float to either side of them, counted one threshold at a
// time.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "quant/levels.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr SectionShape kShape{64, 128};
constexpr float kScale = 0x1p-6F;  // a token's first scale, which its codes are chosen with: y = 64 * x

float sum16(const std::vector<float>& v) {
  std::vector<float> p(v.begin(), v.begin() + 16);
  for (size_t i = 16; i < v.size(); ++i) p[i % 16] += v[i];
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) p[i] += p[i + half];
  }
  return p[0];
}

// FORMATS.md, "Rotated codecs", step 4.
float first_scale(const std::vector<float>& row, float unit) {
  std::vector<float> squares(row);
  for (float& x : squares) x *= x;
  return std::sqrt(sum16(squares) * (1.0F / kShape.dim)) / unit;
}

// Multiples of the scale that lie at thresholds and next to them; the last one gives the row its scale.
std::vector<float> row_at_thresholds(const LevelTable& table) {
  std::vector<float> row;
  for (const float threshold : table.thresholds) {
    for (const float y :
         {std::nextafter(threshold, -1000.0F), threshold, std::nextafter(threshold, 1000.0F)}) {
      row.push_back(y * kScale);
    }
  }
  row.resize(kShape.dim);
  double energy = std::pow(double{table.unit} * kScale, 2) * kShape.dim;
  for (const float x : row) energy -= double{x} * x;
  const auto middle = std::bit_cast<int32_t>(static_cast<float>(std::sqrt(energy)));
  for (int32_t i = 0; i < 128 && first_scale(row, table.unit) != kScale; ++i) {
    row.back() = std::bit_cast<float>(middle + (i % 2 == 0 ? i / 2 : -i / 2));
  }
  return row;
}

int8_t level_of(const LevelTable& table, float y) {
  size_t code = 0;
  for (const float threshold : table.thresholds) code += threshold < y ? 1 : 0;
  return table.levels[code];
}

class RotatedTies : public PerIsaAndCodec {};

TEST_P(RotatedTies, BelongToTheLowerLevel) {
  const LevelTable table = level_table(find_codec(codec())->bits);
  const std::vector<float> row = row_at_thresholds(table);
  ASSERT_EQ(first_scale(row, table.unit), kScale);
  std::vector<float> x;  // a row and its negative in turns: their mean is 0
  for (uint32_t t = 0; t < kShape.tokens; ++t) {
    for (const float value : row) x.push_back(t % 2 == 0 ? value : -value);
  }
  const EncodedSide encoded(kernels(), codec(), Side::kKey, kShape, x.data(), 0);
  const std::vector<float> decoded = encoded.decode(kernels());
  const double scale = double{decoded[kShape.dim - 1]} / 127;
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(decoded[i] / scale, level_of(table, x[i] / kScale), 1e-3)
        << i / kShape.dim << ", " << i % kShape.dim;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, RotatedTies,
                         testing::Combine(testing::ValuesIn(kIsas),
                                          testing::Values(CodecId::kRot4, CodecId::kRot3, CodecId::kRot2)),
                         isa_and_codec_name);

}  // namespace
}  // namespace quire::test
