// Pages of trellis codecs encoded by the kernels where inputs of every kind rarely lead, against the scalar
// reference byte for byte.
#include <cmath>

#include "tests/cuda/encoded.h"

namespace quire::cuda::test {
namespace {

class EncodeTcq : public CudaTest, public testing::WithParamInterface<CodecId> {
 protected:
  static PageKind kind(SectionShape shape) { return kind_of(GetParam(), GetParam(), shape); }
};

// Two pairs of tokens, one `ratio` times as long as the other; the tokens of a pair cancel, so means are 0.
std::vector<float> two_lengths(SectionShape shape, float ratio) {
  std::vector<float> x(size_t{shape.tokens} * shape.dim);
  for (uint32_t t = 0; t < 4; ++t) {
    const float length = (t < 2 ? ratio : 1.0F) * (t % 2 == 0 ? 1.0F : -1.0F);
    for (uint32_t c = 0; c < shape.dim; ++c) x[size_t{t} * shape.dim + c] = length;
  }
  return x;
}

// Codes of scales reach two, four and eight octaves with seven, six and five bits of mantissa. Of ratios that
// grow by less than a bit some are the last that each reaches, and the first that it does not.
TEST_P(EncodeTcq, ScalesAsFarApartAsCodesReach) {
  for (const SectionShape shape : {SectionShape{32, 64}, SectionShape{32, 96}}) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    Sections sections;
    for (const int octaves : {1, 3, 7}) {
      for (int i = 110; i < 132; ++i) {
        sections.push_back(two_lengths(shape, std::ldexp(1.0F + static_cast<float>(i) / 128.0F, octaves)));
      }
    }
    expect_same_bytes(kind(shape), sections, sections);
  }
}

// More lanes than a block walks at a time.
TEST_P(EncodeTcq, ChainsInTurns) {
  constexpr SectionShape kShape{128, 128};
  const size_t n = size_t{kShape.tokens} * kShape.dim;
  for_all_schedules([&] {
    expect_same_bytes(kind(kShape), {quire::test::normal_values(n, 1)}, {quire::test::normal_values(n, 2)});
  });
}

TEST_P(EncodeTcq, WhateverRunsFirst) {
  constexpr SectionShape kShape{32, 64};
  const size_t n = size_t{kShape.tokens} * kShape.dim;
  for_all_schedules([&] {
    expect_same_bytes(kind(kShape), {quire::test::normal_values(n, 3)}, {quire::test::normal_values(n, 4)});
  });
}

std::string codec_name(const testing::TestParamInfo<CodecId>& tested) {
  return std::string(find_codec(tested.param)->name);
}

INSTANTIATE_TEST_SUITE_P(Codecs, EncodeTcq,
                         testing::Values(CodecId::kTcq4, CodecId::kTcq3, CodecId::kTcq2, CodecId::kTcq1),
                         codec_name);

}  // namespace
}  // namespace quire::cuda::test
