// What non-uniform codecs have beyond the others: levels of a layer, Q-Norm, outliers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "quant/nuq_levels.h"
#include "tests/quant/attend_truth.h"
#include "tests/quant/inputs.h"
#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr std::array<Side, 2> kSides{Side::kKey, Side::kValue};

std::vector<CodecInfo> nonuniform_codecs() {
  std::vector<CodecInfo> codecs;
  std::ranges::copy_if(kCodecs, std::back_inserter(codecs),
                       [](const CodecInfo& c) { return c.family == CodecFamily::kNonUniform; });
  return codecs;
}

using Levels = std::array<int8_t, 16>;

// Any table that a layer may bring, also one with all levels on one side or neighbours one apart.
Levels random_levels(Random& random, uint32_t count) {
  std::vector<int8_t> all(255);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int8_t>(static_cast<int>(i) - 127);
  const uint32_t width = count + random.below(255 - count + 1);
  std::vector<int8_t> some(all.begin() + random.below(255 - width + 1), all.end());
  some.resize(width);
  for (size_t i = 0; i < count; ++i)
    std::swap(some[i], some[i + random.below(width - static_cast<uint32_t>(i))]);
  std::sort(some.begin(), some.begin() + count);
  Levels levels{};
  std::copy_n(some.begin(), count, levels.begin());
  return levels;
}

class NonUniform : public PerIsa {};

TEST_P(NonUniform, LevelsOfALayerGiveTheScalarTablesBytesAndValues) {
  Random random(7);
  const Kernels& scalar = *find_kernels(Isa::kScalar);
  for (const CodecInfo& codec : nonuniform_codecs()) {
    for (const InputKind& kind : kInputKinds) {
      for (const Side side : kSides) {
        const SectionShape shape = kSomeShapes[random.below(kSomeShapes.size())];
        const Levels levels = random_levels(random, 1U << codec.bits);
        const SideCodec of_layer{codec.id, levels.data()};
        SCOPED_TRACE(std::string(codec.name) + ", " + std::string(kind.name) + ", " + shape_name(shape));
        const std::vector<float> x = codec_input(kind, codec.id, shape, random.bits());
        const uint32_t first = random.below(8);
        const EncodedSide expected(scalar, of_layer, side, shape, x.data(), first);
        const EncodedSide actual(kernels(), of_layer, side, shape, x.data(), first);
        ASSERT_TRUE(actual.guards_intact());
        ASSERT_TRUE(actual.same_bytes(expected));
        const std::vector<float> decoded = actual.decode(kernels());
        ASSERT_EQ(decoded, expected.decode(scalar));
        for (size_t i = size_t{first} * shape.dim; i < decoded.size(); ++i) {
          ASSERT_TRUE(std::isfinite(decoded[i])) << i;
        }
      }
    }
  }
}

// Attention over one section whose sides use a layer's levels, against f64 over what the scalar table
// decodes.
TEST_P(NonUniform, AttentionReadsTheLevelsOfALayer) {
  Random random(8);
  constexpr uint32_t kRows = 17;  // blocks of eight and of one
  for (const CodecInfo& codec : nonuniform_codecs()) {
    for (const SectionShape shape : kSomeShapes) {
      SCOPED_TRACE(std::string(codec.name) + ", " + shape_name(shape));
      const Levels key_levels = random_levels(random, 1U << codec.bits);
      const Levels value_levels = random_levels(random, 1U << codec.bits);
      const SideCodec key{codec.id, key_levels.data()};
      const SideCodec value{codec.id, value_levels.data()};
      const size_t count = size_t{shape.tokens} * shape.dim;
      const std::vector<float> keys = normal_values(count, random.bits());
      const std::vector<float> values = normal_values(count, random.bits());
      const PageKind kind{codec.id, codec.id, KeySpace::kPostRope, 0, 1, shape};
      const SectionLayout at = page_layout(kind).section;
      AlignedArray<uint8_t> section(at.bytes);
      SectionRef ref{section.data(), 0, 0};
      kernels().encode_key(key, shape, keys.data(), 0, section.data() + at.key_codes,
                           section.data() + at.key_meta, &ref.key_param);
      kernels().encode_value(value, shape, values.data(), 0, section.data() + at.value_codes,
                             section.data() + at.value_meta, &ref.value_param);
      std::vector<float> decoded(count);
      Tokens tokens{shape.dim, {}, {}};
      const Kernels& scalar = *find_kernels(Isa::kScalar);
      scalar.decode_key(key, shape,
                        {section.data() + at.key_codes, section.data() + at.key_meta, ref.key_param},
                        decoded.data());
      tokens.keys.assign(decoded.begin(), decoded.end());
      scalar.decode_value(value, shape,
                          {section.data() + at.value_codes, section.data() + at.value_meta, ref.value_param},
                          decoded.data());
      tokens.values.assign(decoded.begin(), decoded.end());

      AlignedArray<float> q(size_t{kRows} * shape.dim);
      for (float& x : q.span()) {
        x = random.normal() * 2 * std::numbers::log2e_v<float> / std::sqrt(static_cast<float>(shape.dim));
      }
      AlignedArray<float> o(q.size());
      AlignedArray<float> m(kRows);
      AlignedArray<float> l(kRows);
      std::ranges::fill(m.span(), -std::numeric_limits<float>::infinity());
      AlignedArray<uint8_t> scratch(kernels().attend_scratch_bytes(kRows, shape));
      const AttendState state{o.data(), m.data(), l.data()};
      kernels().attend_folded({key, value, 0, shape, at, nullptr}, {&ref, 1}, {q.data(), kRows, nullptr},
                              state, scratch.data());
      kernels().finish(state, kRows, shape.dim, nullptr);
      for (uint32_t r = 0; r < kRows; ++r) {
        const std::vector<double> query(q.data() + size_t{r} * shape.dim,
                                        q.data() + size_t{r + 1} * shape.dim);
        const Truth truth = attend_f64(query, tokens, 0, shape.tokens);
        EXPECT_LE(relative_error(o.data() + size_t{r} * shape.dim, truth.output), kAttendErrorBound);
      }
    }
  }
}

// Mean and deviation of every group of a section, f64.
struct Moments {
  double mean;
  double deviation;
};
std::vector<Moments> group_moments(Side side, SectionShape shape, const std::vector<float>& x) {
  const bool key = side == Side::kKey;
  const uint32_t groups = key ? shape.dim : shape.tokens;
  const uint32_t lanes = key ? shape.tokens : shape.dim;
  std::vector<Moments> moments;
  for (uint32_t g = 0; g < groups; ++g) {
    double sum = 0;
    double squares = 0;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      const double v = x[key ? size_t{lane} * shape.dim + g : size_t{g} * shape.dim + lane];
      sum += v;
      squares += v * v;
    }
    const double mean = sum / lanes;
    moments.push_back({mean, std::sqrt(squares / lanes - mean * mean)});
  }
  return moments;
}

TEST_P(NonUniform, QNormKeepsMeanAndDeviationOfEveryGroup) {
  const SectionShape shape{64, 128};
  for (const CodecId codec : {CodecId::kNuq4, CodecId::kNuq3, CodecId::kNuq2}) {
    for (const Side side : kSides) {
      const std::vector<float> x = codec_input(kInputKinds[1], codec, shape, 9);  // outlier channels
      const EncodedSide encoded(kernels(), codec, side, shape, x.data(), 0);
      const std::vector<Moments> before = group_moments(side, shape, x);
      const std::vector<Moments> after = group_moments(side, shape, encoded.decode(kernels()));
      for (size_t g = 0; g < before.size(); ++g) {
        // Both are kept as halves, within the section's exponent.
        EXPECT_NEAR(after[g].deviation / before[g].deviation, 1, 2e-3) << find_codec(codec)->name;
        EXPECT_NEAR(after[g].mean, before[g].mean, 2e-3 * (std::fabs(before[g].mean) + before[g].deviation));
      }
    }
  }
}

double squared_error(const std::vector<float>& a, const std::vector<float>& b, double skip_above) {
  double error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::fabs(a[i]) < skip_above) error += std::pow(double{a[i]} - b[i], 2);
  }
  return error;
}

// One value of each lane twenty times as large as the rest widens the range of its group for all others,
// unless it is kept apart.
TEST_P(NonUniform, OutliersKeptApartLeaveTheRangeToTheRest) {
  const SectionShape shape{64, 64};
  for (const auto& [dense, sparse] : {std::pair{CodecId::kNuq4, CodecId::kNuq4s},
                                      {CodecId::kNuq3, CodecId::kNuq3s},
                                      {CodecId::kNuq2, CodecId::kNuq2s}}) {
    for (const Side side : kSides) {
      std::vector<float> x = normal_values(size_t{shape.tokens} * shape.dim, 10);
      for (uint32_t i = 0; i < 64; ++i) x[size_t{i} * shape.dim + i * 7 % 64] = i % 2 == 0 ? 20.0F : -20.0F;
      const std::vector<float> with =
          EncodedSide(kernels(), sparse, side, shape, x.data(), 0).decode(kernels());
      const std::vector<float> without =
          EncodedSide(kernels(), dense, side, shape, x.data(), 0).decode(kernels());
      EXPECT_LT(squared_error(x, with, 10), 0.2 * squared_error(x, without, 10)) << find_codec(dense)->name;
      for (size_t i = 0; i < x.size(); ++i) {
        if (std::fabs(x[i]) == 20.0F) {
          EXPECT_NEAR(with[i], x[i], 2.5);
        }
      }
    }
  }
}

// FORMATS.md, "Foreign": the group of an outlier beyond the last is taken as the last.
TEST_P(NonUniform, AnOutlierOfNoGroupBelongsToTheLast) {
  const SectionShape shape{32, 32};
  const std::vector<float> x = normal_values(size_t{shape.tokens} * shape.dim, 11);
  for (const Side side : kSides) {
    EncodedSide encoded(kernels(), CodecId::kNuq4s, side, shape, x.data(), 0);
    const size_t lane = 5;
    uint8_t* outlier = &encoded.meta[size_t{4} * 32 + 2 * lane];
    outlier[1] = 0x40;  // 2
    outlier[0] = 31;
    const std::vector<float> expected = encoded.decode(*find_kernels(Isa::kScalar));
    outlier[0] = 0xFF;
    EXPECT_EQ(encoded.decode(kernels()), expected);
    outlier[1] = 0;
    const std::vector<float> bare = encoded.decode(kernels());
    const size_t at = side == Side::kKey ? lane * 32 + 31 : size_t{31} * 32 + lane;
    EXPECT_FLOAT_EQ(expected[at] - bare[at], std::ldexp(2.0F, static_cast<int32_t>(encoded.param)));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, NonUniform, testing::ValuesIn(kIsas), isa_test_name);

// The mass of a Gaussian group's members along [-1, 1], its own range, in the values' own units: of n draws
// with the least at a and the largest at b, two lie at the ends and the others are Gaussian between.
std::vector<double> mass_within_range(int n, size_t cells) {
  constexpr int kEnds = 120;
  constexpr double kReach = 5;
  const auto below = [](double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; };
  const auto end = [](int i) { return kReach * (2.0 * i / kEnds - 1); };
  std::vector<double> mass(cells);
  std::vector<double> cdf(cells + 1);
  for (int i = 0; i < kEnds; ++i) {
    for (int j = i + 1; j <= kEnds; ++j) {
      const double a = end(i);
      const double b = end(j);
      const double inside = below(b) - below(a);
      const double weight = std::exp(-(a * a + b * b) / 2 + (n - 2) * std::log(inside)) * (b - a) * (b - a);
      if (weight < 1e-9) continue;
      for (size_t k = 0; k <= cells; ++k) {
        cdf[k] = below(a + (b - a) * static_cast<double>(k) / static_cast<double>(cells));
      }
      for (size_t k = 0; k < cells; ++k) mass[k] += weight * (n - 2) * (cdf[k + 1] - cdf[k]) / inside;
      mass.front() += weight;
      mass.back() += weight;
    }
  }
  return mass;
}

// Lloyd's algorithm on the positive half of a symmetric mass, which is spread evenly within a cell.
std::vector<double> positive_k_means(const std::vector<double>& mass, size_t half) {
  const size_t cells = mass.size() / 2;
  const auto width = 1 / static_cast<double>(cells);
  std::vector<double> sums{0};
  std::vector<double> moments{0};
  for (size_t k = 0; k < cells; ++k) {
    // The outermost draws lie at the very end.
    const double at = k + 1 == cells ? 1 : (static_cast<double>(k) + 0.5) * width;
    sums.push_back(sums.back() + mass[cells + k]);
    moments.push_back(moments.back() + mass[cells + k] * at);
  }
  const auto up_to = [&](const std::vector<double>& totals, double at) {
    const auto cell = std::min(static_cast<size_t>(at / width), cells - 1);
    return totals[cell] + (totals[cell + 1] - totals[cell]) * (at / width - static_cast<double>(cell));
  };
  std::vector<double> levels(half);
  for (size_t i = 0; i < half; ++i) levels[i] = (static_cast<double>(i) + 0.5) / static_cast<double>(half);
  for (int round = 0; round < 5000; ++round) {
    double low = 0;
    for (size_t i = 0; i < half; ++i) {
      const double high = i + 1 == half ? 1 : (levels[i] + levels[i + 1]) / 2;
      levels[i] = (up_to(moments, high) - up_to(moments, low)) / (up_to(sums, high) - up_to(sums, low));
      low = high;
    }
  }
  return levels;
}

TEST(NonUniformLevels, AreTheKMeansLevelsOfGaussiansWithinTheirRange) {
  for (const auto& [side, members] : {std::pair{Side::kKey, 64}, {Side::kValue, 128}}) {
    const std::vector<double> mass = mass_within_range(members, 800);
    for (const uint32_t bits : {4U, 3U, 2U}) {
      const int8_t* levels = nuq_levels(bits, side, nullptr);
      const size_t half = size_t{1} << (bits - 1);
      const std::vector<double> exact = positive_k_means(mass, half);
      for (size_t i = 0; i < half; ++i) {
        EXPECT_NEAR(levels[half + i], exact[i] * 127, 0.6) << bits << " bits, level " << i;
        EXPECT_EQ(levels[half - 1 - i], -levels[half + i]);
      }
    }
  }
}

}  // namespace
}  // namespace quire::test
