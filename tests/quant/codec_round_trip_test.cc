// What comes out of a codec against what went in, in f64, within the bounds of FORMATS.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/bytes.h"
#include "quant/nuq_levels.h"
#include "tests/quant/inputs.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

double half_at(const uint8_t* bytes, size_t index) {
  const auto pattern = load_le<uint16_t>(bytes + 2 * index);
  const int exponent = pattern >> 10 & 31;
  const double fraction = pattern & 0x3FF;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  return pattern >= 0x8000 ? -magnitude : magnitude;
}

double step(int n) { return std::exp2(n / 16.0); }

struct Case {
  const Kernels& kernels;
  const CodecInfo& codec;
  Side side;
  SectionShape shape;
  uint32_t first;
  std::vector<float> x;

  double at(uint32_t token, uint32_t channel) const { return x[size_t{token} * shape.dim + channel]; }
};

void check_float(const Case& c, const std::vector<float>& decoded) {
  for (size_t i = size_t{c.first} * c.shape.dim; i < decoded.size(); ++i) {
    const double x = c.x[i];
    const double bound = c.codec.bits == 32 ? 0 : std::fabs(x) * 0x1p-8 + 0x1p-134;
    ASSERT_LE(std::fabs(decoded[i] - x), bound) << i;
  }
}

struct Group {
  double low = INFINITY;
  double high = -INFINITY;
};

std::vector<Group> ranges(const Case& c, int exponent) {
  std::vector<Group> groups(c.side == Side::kKey ? c.shape.dim : c.shape.tokens);
  for (uint32_t token = c.first; token < c.shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
      Group& group = groups[c.side == Side::kKey ? channel : token];
      const double value = std::ldexp(c.at(token, channel), -exponent);
      group.low = std::min(group.low, value);
      group.high = std::max(group.high, value);
    }
  }
  return groups;
}

void check_uniform(const Case& c, const EncodedSide& encoded, const std::vector<float>& decoded) {
  const auto exponent = static_cast<int32_t>(encoded.param);
  const std::vector<Group> groups = ranges(c, exponent);
  const double last = (1U << c.codec.bits) - 1;
  for (uint32_t token = c.first; token < c.shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
      const size_t g = c.side == Side::kKey ? channel : token;
      const double scale = half_at(encoded.meta.data(), g);
      const double mid = half_at(encoded.meta.data() + 2 * groups.size(), g);
      const double range = groups[g].high - groups[g].low;
      ASSERT_LE(scale, range / last * (1 + 0x1p-11) + 0x1p-25) << "group " << g;
      const double bound =
          0.501 * scale + range * 0x1p-11 + (std::fabs(mid) + 1.01 * range) * 0x1p-11 + (last + 1) * 0x1p-25;
      const double error = decoded[size_t{token} * c.shape.dim + channel] - c.at(token, channel);
      ASSERT_LE(std::fabs(error), std::ldexp(bound, exponent))
          << "token " << token << ", channel " << channel;
    }
  }
}

// The group of each lane's outlier; none where the codec has no outliers.
std::vector<uint32_t> outlier_groups(const Case& c, const EncodedSide& encoded) {
  const bool key = c.side == Side::kKey;
  const size_t groups = key ? c.shape.dim : c.shape.tokens;
  std::vector<uint32_t> of_lane(key ? c.shape.tokens : c.shape.dim, UINT32_MAX);
  for (size_t lane = 0; c.codec.outliers && lane < of_lane.size(); ++lane) {
    of_lane[lane] = encoded.meta[4 * groups + 2 * lane];
  }
  return of_lane;
}

// The bounds of FORMATS.md: of the mean square over what a group keeps, and of each outlier.
void check_nonuniform(const Case& c, const EncodedSide& encoded, const std::vector<float>& decoded) {
  const bool key = c.side == Side::kKey;
  const auto exponent = static_cast<int32_t>(encoded.param);
  const std::vector<uint32_t> outliers = outlier_groups(c, encoded);
  const int8_t* levels = nuq_levels(c.codec.bits, c.side, nullptr);
  const size_t last = (size_t{1} << c.codec.bits) - 1;
  double gap = std::max(levels[0] + 127, 127 - levels[last]);
  for (size_t i = 0; i < last; ++i) gap = std::max(gap, (levels[i + 1] - levels[i]) / 2.0);
  const size_t groups = key ? c.shape.dim : c.shape.tokens;
  for (uint32_t group = key ? 0 : c.first; group < groups; ++group) {
    Group range;
    double squares = 0;
    double kept = 0;
    double furthest = 0;
    for (uint32_t lane = key ? c.first : 0; lane < outliers.size(); ++lane) {
      const uint32_t token = key ? lane : group;
      const uint32_t channel = key ? group : lane;
      const double value = std::ldexp(c.at(token, channel), -exponent);
      const double error =
          std::ldexp(double{decoded[size_t{token} * c.shape.dim + channel]}, -exponent) - value;
      if (outliers[lane] == group) {
        const uint8_t stored = encoded.meta[4 * groups + 2 * size_t{lane} + 1];
        const double rest = std::fabs(half_at(std::array<uint8_t, 2>{0, stored}.data(), 0));
        ASSERT_LE(std::fabs(error), 0x1p-3 * rest * 1.01 + 0x1p-17 + 0x1p-20 * std::fabs(value));
        continue;
      }
      range.low = std::min(range.low, value);
      range.high = std::max(range.high, value);
      squares += error * error;
      furthest = std::max(furthest, std::fabs(error));
      ++kept;
    }
    if (kept == 0) continue;
    const double width = range.high - range.low;
    const double mid = std::fabs(half_at(encoded.meta.data() + 2 * groups, group));
    const double bound = 1.5 * (gap * width / 254 + (mid + width) * 0x1p-10 + 0x1p-22);
    ASSERT_LE(std::sqrt(squares / kept), bound) << "group " << group;
    ASSERT_LE(furthest, std::sqrt(kept) * bound) << "group " << group;
  }
}

struct RotatedMeta {
  std::vector<double> scale;  // 0 for tokens without one
  std::vector<double> mean;
  double mean_step;
  double largest_scale;
};

RotatedMeta rotated_meta(const Case& c, const EncodedSide& encoded) {
  RotatedMeta meta;
  const int scale_param = static_cast<int16_t>(encoded.param & 0xFFFF);
  const int mean_param = static_cast<int16_t>(encoded.param >> 16);
  meta.mean_step = step(mean_param);
  meta.largest_scale = step(scale_param);
  for (uint32_t token = 0; token < c.shape.tokens; ++token) {
    const int code = encoded.meta[token];
    meta.scale.push_back(code == 0 ? 0 : step(scale_param + code - 255));
  }
  for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
    meta.mean.push_back(static_cast<int8_t>(encoded.meta[c.shape.tokens + channel]) * meta.mean_step);
  }
  return meta;
}

void check_means(const Case& c, const RotatedMeta& meta) {
  std::vector<double> means(c.shape.dim);
  double largest = 0;
  for (uint32_t token = c.first; token < c.shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
      means[channel] += c.at(token, channel) / (c.shape.tokens - c.first);
      largest = std::max(largest, std::fabs(c.at(token, channel)));
    }
  }
  double largest_mean = 0;
  for (const double mean : means) largest_mean = std::max(largest_mean, std::fabs(mean));
  // f32 sums of up to 128 terms are off by a few units of the largest value.
  const double slack = largest * 0x1p-16 + 0x1p-126;
  for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
    ASSERT_LE(std::fabs(meta.mean[channel] - means[channel]),
              0.5 * largest_mean / 127 * std::exp2(1.0 / 16) + slack)
        << "channel " << channel;
  }
}

// The bound of FORMATS.md, and that a token is flushed only when it is small enough to be.
void check_rotated(const Case& c, const EncodedSide& encoded, const std::vector<float>& decoded) {
  const RotatedMeta meta = rotated_meta(c, encoded);
  const double half_gap = c.codec.bits == 4 ? 15.5 : c.codec.bits == 3 ? 24 : 44.5;
  const double unit = c.codec.bits == 4 ? 46.47606 : c.codec.bits == 3 ? 59.01636 : 84.0827;
  check_means(c, meta);
  for (uint32_t token = c.first; token < c.shape.tokens; ++token) {
    const double scale = meta.scale[token];
    double squares = 0;
    for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
      squares += std::pow(c.at(token, channel) - meta.mean[channel], 2);
    }
    const double rms = std::sqrt(squares / c.shape.dim);
    const double coded_at = rms / unit;
    for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
      const double x = c.at(token, channel);
      const double residual = std::fabs(x - meta.mean[channel]);
      const double rounding = 0x1p-20 * (std::fabs(x) + std::fabs(meta.mean[channel])) + 0x1p-118;
      const double cell = std::max(half_gap * coded_at, residual - 127 * coded_at);
      const double bound = scale == 0 ? residual : cell + 127 * std::fabs(scale - coded_at);
      const double error = decoded[size_t{token} * c.shape.dim + channel] - x;
      ASSERT_LE(std::fabs(error), bound + rounding) << "token " << token << ", channel " << channel;
    }
    if (scale == 0) {
      ASSERT_LE(rms, 1.1 * unit * std::exp2(-15.8) * meta.largest_scale + 0x1p-118) << "token " << token;
    }
  }
}

struct TrellisMeta {
  uint32_t mantissa_bits;
  RotatedMeta rotated;
};

TrellisMeta trellis_meta(const Case& c, const EncodedSide& encoded) {
  TrellisMeta meta{(encoded.param >> 30) + 4, {}};
  const int largest = static_cast<int16_t>(encoded.param & 0xFFFF);
  const double fraction_unit = std::exp2(meta.mantissa_bits);
  const auto octave = std::floor(largest / 128.0);
  const double start = std::floor((largest - 128 * octave) / 128.0 * fraction_unit);
  meta.rotated.mean_step = step(static_cast<int>(encoded.param << 2) >> 18);
  for (uint32_t token = 0; token < c.shape.tokens; ++token) {
    const int code = encoded.meta[token];
    const double place = start + code - 255;
    const double whole = std::floor(place / fraction_unit);
    const double scale = (1 + place / fraction_unit - whole) * std::exp2(whole + octave);
    meta.rotated.scale.push_back(code == 0 ? 0 : scale);
  }
  for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
    const int mean_code = static_cast<int8_t>(encoded.meta[c.shape.tokens + channel]);
    meta.rotated.mean.push_back(mean_code * meta.rotated.mean_step);
  }
  return meta;
}

// Each token's levels are as long as the token when seen along it; a token without a scale is its mean.
void check_trellis(const Case& c, const EncodedSide& encoded, const std::vector<float>& decoded) {
  const TrellisMeta trellis = trellis_meta(c, encoded);
  const RotatedMeta& meta = trellis.rotated;
  check_means(c, meta);
  const double rounding_of_scale = std::exp2(-1.0 - trellis.mantissa_bits) + 0x1p-12;
  for (uint32_t token = c.first; token < c.shape.tokens; ++token) {
    double energy = 0;
    double product = 0;
    double rounding = 0;
    for (uint32_t channel = 0; channel < c.shape.dim; ++channel) {
      const double residual = c.at(token, channel) - meta.mean[channel];
      energy += residual * residual;
      product += residual * (decoded[size_t{token} * c.shape.dim + channel] - meta.mean[channel]);
      rounding += 0x1p-21 * (std::fabs(c.at(token, channel)) + std::fabs(meta.mean[channel])) + 0x1p-118;
    }
    if (meta.scale[token] == 0) {
      ASSERT_NEAR(product, 0, 64 * rounding * std::sqrt(energy)) << "token " << token;
      continue;
    }
    const double target_scale = std::sqrt(energy / c.shape.dim) / 40;
    if (target_scale < rounding) continue;  // lost in the mean's rounding
    ASSERT_NEAR(product / energy, 1, rounding_of_scale + 64 * rounding / target_scale) << "token " << token;
  }
}

void check(const Case& c) {
  const EncodedSide encoded(c.kernels, c.codec.id, c.side, c.shape, c.x.data(), c.first);
  const std::vector<float> decoded = encoded.decode(c.kernels);
  ASSERT_TRUE(encoded.guards_intact());
  for (size_t i = size_t{c.first} * c.shape.dim; i < decoded.size(); ++i) {
    ASSERT_TRUE(std::isfinite(decoded[i])) << i;
  }
  if (c.codec.family == CodecFamily::kFloat) check_float(c, decoded);
  if (c.codec.family == CodecFamily::kUniform) check_uniform(c, encoded, decoded);
  if (c.codec.family == CodecFamily::kRotated) check_rotated(c, encoded, decoded);
  if (c.codec.family == CodecFamily::kTrellis) check_trellis(c, encoded, decoded);
  if (c.codec.family == CodecFamily::kNonUniform) check_nonuniform(c, encoded, decoded);
}

class RoundTrip : public PerIsaAndCodec {};

TEST_P(RoundTrip, StaysWithinTheBoundOnAllInputs) {
  constexpr std::array<uint32_t, 3> kFirsts{0, 4, 17};  // in turns
  size_t turn = 0;
  for (const InputKind& kind : kInputKinds) {
    for (const SectionShape shape : kSomeShapes) {
      for (const Side side : {Side::kKey, Side::kValue}) {
        const uint32_t first = kFirsts[turn++ % kFirsts.size()];
        SCOPED_TRACE(std::string(kind.name) + ", " + shape_name(shape) +
                     (side == Side::kKey ? ", keys, first " : ", values, first ") + std::to_string(first));
        check({kernels(), *find_codec(codec()), side, shape, first,
               codec_input(kind, codec(), shape, 11 + first)});
      }
    }
  }
}

TEST_P(RoundTrip, StaysWithinTheBoundAtAllShapes) {
  for (const SectionShape shape : all_shapes()) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      SCOPED_TRACE(shape_name(shape));
      check(
          {kernels(), *find_codec(codec()), side, shape, 0, codec_input(kInputKinds[0], codec(), shape, 5)});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, RoundTrip,
                         testing::Combine(testing::ValuesIn(kIsas), testing::ValuesIn(all_codecs())),
                         isa_and_codec_name);

// What a codec makes of Gaussians: the squared error, and how long decoded rows are, seen from the rows
// themselves.
struct Fidelity {
  double error;   // of the energy
  double length;  // 1: as long as they were
};

Fidelity fidelity(CodecId codec, Side side, SectionShape shape) {
  const std::vector<float> x = kInputKinds[0].make(shape, 21);
  const Kernels& kernels = *find_kernels(Isa::kScalar);
  const std::vector<float> decoded = EncodedSide(kernels, codec, side, shape, x.data(), 0).decode(kernels);
  double error = 0;
  double energy = 0;
  double along = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(double{decoded[i]} - x[i], 2);
    energy += std::pow(x[i], 2);
    along += double{decoded[i]} * x[i];
  }
  return {error / energy, along / energy};
}

// Rows keep their length; where levels miss the share d of a row's energy, the squared error is d / (1 - d).
void expect_missed(CodecId codec, Side side, double d) {
  const Fidelity found = fidelity(codec, side, {64, 128});
  EXPECT_NEAR(found.error / (d / (1 - d)), 1, 0.06) << find_codec(codec)->name;
  EXPECT_NEAR(found.length, 1, 0.005) << find_codec(codec)->name;
}

// The point of the Gaussian levels: they miss no more than Lloyd and Max's.
TEST(RotatedCodecs, MissWhatLloydAndMaxMissOfGaussians) {
  for (const auto& [codec, missed] :
       {std::pair{CodecId::kRot4, .0095}, {CodecId::kRot3, .0346}, {CodecId::kRot2, .1175}}) {
    expect_missed(codec, Side::kKey, missed);
  }
}

// The point of the trellis: a third less.
TEST(TrellisCodecs, MissAThirdLessOfGaussians) {
  for (const auto& [codec, missed] : {std::pair{CodecId::kTcq4, .0063},
                                      {CodecId::kTcq3, .0214},
                                      {CodecId::kTcq2, .0780},
                                      {CodecId::kTcq1, .295}}) {
    expect_missed(codec, Side::kKey, missed);
    expect_missed(codec, Side::kValue, missed);
  }
}

}  // namespace
}  // namespace quire::test
