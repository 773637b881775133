// Pages of non-uniform codecs encoded by the kernels that keep values in registers, against the scalar
// reference byte for byte: levels of a layer, values on thresholds, sinks, ties among outliers.
#include <algorithm>
#include <cmath>

#include "tests/cuda/encoded.h"

namespace quire::cuda::test {
namespace {

constexpr SectionShape kShapes[] = {{32, 64}, {64, 128}, {64, 64}, {32, 128}};

// Whole and half level units of groups that reach from -127 to 127 of them. Every group and every lane has
// several of both, so that the range stays though outliers are taken out.
std::vector<float> on_thresholds(SectionShape shape, uint64_t seed) {
  quire::test::Random random(seed);
  std::vector<float> x(size_t{shape.tokens} * shape.dim);
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    for (uint32_t c = 0; c < shape.dim; ++c) {
      const uint32_t diagonal = (c + t) % 8;
      const int twice =
          diagonal < 2 ? (diagonal == 0 ? -254 : 254) : static_cast<int>(random.below(509)) - 254;
      x[size_t{t} * shape.dim + c] = static_cast<float>(twice) / 128.0F;
    }
  }
  return x;
}

// A few magnitudes, so that many members lie equally far out.
std::vector<float> few_magnitudes(SectionShape shape, uint64_t seed) {
  quire::test::Random random(seed);
  std::vector<float> x(size_t{shape.tokens} * shape.dim);
  for (float& value : x) value = random.below(2) == 0 ? 1.0F : -1.0F;
  for (size_t i = 0; i < x.size(); i += 97) x[i] *= 4.0F;
  return x;
}

// A lane whose members are its groups' outliers wherever they can be: groups without any other member.
std::vector<float> one_group_far_out(SectionShape shape, bool keys) {
  std::vector<float> x = quire::test::normal_values(size_t{shape.tokens} * shape.dim, 9);
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    for (uint32_t c = 0; c < shape.dim; ++c) {
      if ((keys ? c : t) == 7) continue;
      x[size_t{t} * shape.dim + c] = 0.25F;
    }
  }
  return x;
}

// Groups so narrow beside their midpoints that levels lie far beyond -127 .. 127 level units.
std::vector<float> narrow(SectionShape shape, uint64_t seed) {
  std::vector<float> x = quire::test::normal_values(size_t{shape.tokens} * shape.dim, seed);
  for (float& value : x) value = 1.9990F + value * 0x1p-22F;
  return x;
}

class EncodeNuq : public CudaTest, public testing::WithParamInterface<CodecId> {
 protected:
  static PageKind kind(SectionShape shape, uint32_t sinks) {
    return kind_of(GetParam(), GetParam(), shape, sinks);
  }
  static uint32_t levels() { return 1U << find_codec(GetParam())->bits; }
  static void expect_bytes_of_hard_inputs(SectionShape shape, uint32_t sinks, quire::test::LayerLevels own) {
    Sections keys{on_thresholds(shape, 1), few_magnitudes(shape, 2), one_group_far_out(shape, true),
                  narrow(shape, 3), quire::test::normal_values(size_t{shape.tokens} * shape.dim, 4)};
    Sections values{on_thresholds(shape, 5), few_magnitudes(shape, 6), one_group_far_out(shape, false),
                    narrow(shape, 7), quire::test::normal_values(size_t{shape.tokens} * shape.dim, 8)};
    expect_same_bytes(kind(shape, sinks), keys, values, own);
  }
};

TEST_P(EncodeNuq, HardInputs) {
  for (const SectionShape shape : kShapes) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    for (const uint32_t sinks : {0U, 5U}) expect_bytes_of_hard_inputs(shape, sinks, {});
    if (kSlice) break;
  }
}

// A page of nothing but sinks, and one of a single valid token.
TEST_P(EncodeNuq, FewOrNoValidTokens) {
  for (const SectionShape shape : kShapes) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    for (const uint32_t valid : {0U, 1U}) expect_bytes_of_hard_inputs(shape, shape.tokens - valid, {});
    if (kSlice) break;
  }
}

// Neighbours at both ends and next to each other: thresholds at the ends of the table and a level unit apart.
TEST_P(EncodeNuq, LevelsOfTheLayer) {
  std::vector<int8_t> ends;
  std::vector<int8_t> close;
  for (uint32_t i = 0; i < levels(); ++i) {
    const bool lower = i < levels() / 2;
    ends.push_back(
        static_cast<int8_t>(lower ? -127 + static_cast<int>(i) : 127 - static_cast<int>(levels() - 1 - i)));
    close.push_back(static_cast<int8_t>(-3 + static_cast<int>(i)));
  }
  for (const SectionShape shape : kShapes) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    expect_bytes_of_hard_inputs(shape, 0, {ends.data(), close.data()});
    expect_bytes_of_hard_inputs(shape, 3, {close.data(), ends.data()});
    if (kSlice) break;
  }
}

TEST_P(EncodeNuq, WhateverRunsFirst) {
  for_all_schedules([] { expect_bytes_of_hard_inputs(kShapes[0], 2, {}); });
  if (kSlice) return;
  for_all_schedules([] { expect_bytes_of_hard_inputs(kShapes[1], 0, {}); });
}

std::string codec_name(const testing::TestParamInfo<CodecId>& tested) {
  return std::string(find_codec(tested.param)->name);
}

INSTANTIATE_TEST_SUITE_P(Codecs, EncodeNuq,
                         testing::Values(CodecId::kNuq4, CodecId::kNuq3, CodecId::kNuq2, CodecId::kNuq4s,
                                         CodecId::kNuq3s, CodecId::kNuq2s),
                         codec_name);

}  // namespace
}  // namespace quire::cuda::test
