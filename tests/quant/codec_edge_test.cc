// Codecs at the edges of their input: sinks, constants, repetition, and what metadata must hold there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "quant/dot_quad.h"
#include "tests/quant/inputs.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

class CodecEdge : public PerIsaAndCodec {
 protected:
  const CodecInfo& info() const { return *find_codec(codec()); }
  EncodedSide encode(Side side, SectionShape shape, const std::vector<float>& x, uint32_t first) const {
    return {kernels(), codec(), side, shape, x.data(), first};
  }
};

// The same for the codecs that have codes, for floats, for those in plain space, and for two families.
class CodedEdge : public CodecEdge {};
class FloatEdge : public CodecEdge {};
class PlainEdge : public CodecEdge {};
class RotatedEdge : public CodecEdge {};
class TrellisEdge : public CodecEdge {};

constexpr std::array<Side, 2> kSides{Side::kKey, Side::kValue};

TEST_P(CodecEdge, TheSameInputGivesTheSameBytesWhereverItLies) {
  const SectionShape shape{64, 96};
  const std::vector<float> x = codec_input(kInputKinds[1], codec(), shape, 31);
  for (const Side side : kSides) {
    const EncodedSide expected = encode(side, shape, x, 4);
    for (size_t offset = 1; offset < 16; offset += 3) {
      AlignedArray<float> moved(x.size(), offset);
      std::ranges::copy(x, moved.data());
      const EncodedSide actual(kernels(), codec(), side, shape, moved.data(), 4);
      EXPECT_TRUE(actual.same_bytes(expected)) << "offset " << offset;
    }
  }
}

TEST_P(CodecEdge, TokensBelowFirstDoNotMatter) {
  const SectionShape shape{64, 64};
  std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 32);
  for (const Side side : kSides) {
    for (const uint32_t first : {1U, 4U, 7U, 32U}) {
      const EncodedSide expected = encode(side, shape, x, first);
      std::vector<float> changed = x;
      std::fill_n(changed.begin(), size_t{first} * shape.dim, std::numeric_limits<float>::quiet_NaN());
      EXPECT_TRUE(encode(side, shape, changed, first).same_bytes(expected)) << "first " << first;
    }
  }
}

TEST_P(CodedEdge, TokensBelowFirstAreZeroInCodesAndMeta) {
  const SectionShape shape{32, 64};
  const std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 33);
  for (const Side side : kSides) {
    const EncodedSide encoded = encode(side, shape, x, 5);
    for (uint32_t token = 0; token < 5; ++token) {
      for (uint32_t channel = 0; info().family != CodecFamily::kTrellis && channel < shape.dim; ++channel) {
        EXPECT_EQ(get_code(encoded.codes.data(), side, shape, info().bits, token, channel), 0U);
      }
      if (info().space == CodecSpace::kRotated) {
        EXPECT_EQ(encoded.meta[token], 0);
      } else if (side == Side::kValue) {
        for (const size_t array : {0U, 1U}) {
          EXPECT_EQ(encoded.meta[2 * (array * shape.tokens + token)], 0);
          EXPECT_EQ(encoded.meta[2 * (array * shape.tokens + token) + 1], 0);
        }
      }
    }
  }
}

// A key's chain is its own, so that of a token left out is that of zeros.
TEST_P(TrellisEdge, TokensBelowFirstHaveTheCodesOfZeros) {
  const SectionShape shape{32, 64};
  const std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 33);
  const EncodedSide encoded = encode(Side::kKey, shape, x, 5);
  const EncodedSide zeros = encode(Side::kKey, shape, std::vector<float>(x.size()), 0);
  for (uint32_t token = 0; token < 5; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      EXPECT_EQ(get_code(encoded.codes.data(), Side::kKey, shape, info().bits, token, channel),
                get_code(zeros.codes.data(), Side::kKey, shape, info().bits, token, channel));
    }
  }
}

// Scales have as many mantissa bits as their range leaves room for; beyond sixteen octaves the small ones
// flush. Tokens are in pairs of opposites, so that there is no mean, and all but the last two are of one
// length.
TEST_P(TrellisEdge, MantissaBitsFollowTheRangeOfScales) {
  const SectionShape shape{32, 64};
  for (const auto& [octaves, mantissa_bits, flushed] : {std::tuple{0.0, 7U, false},
                                                        {1.2, 7U, false},
                                                        {2.8, 6U, false},
                                                        {3.2, 6U, false},
                                                        {4.8, 5U, false},
                                                        {7.0, 5U, false},
                                                        {9.0, 4U, false},
                                                        {15.0, 4U, false},
                                                        {17.5, 4U, true}}) {
    SCOPED_TRACE(octaves);
    std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 39);
    for (uint32_t token = 0; token < shape.tokens; token += 2) {
      float* row = x.data() + size_t{token} * shape.dim;
      double energy = 0;
      for (uint32_t c = 0; c < shape.dim; ++c) energy += row[c] * row[c];
      const double length = token == 30 ? std::exp2(-octaves) : 1;
      for (uint32_t c = 0; c < shape.dim; ++c) {
        row[c] = static_cast<float>(row[c] * length / std::sqrt(energy));
        row[shape.dim + c] = -row[c];
      }
    }
    for (const Side side : kSides) {
      const EncodedSide encoded = encode(side, shape, x, 0);
      EXPECT_EQ((encoded.param >> 30) + 4, mantissa_bits);
      EXPECT_EQ(encoded.meta[30] == 0, flushed);
      EXPECT_EQ(encoded.meta[31] == 0, flushed);
      EXPECT_EQ(std::ranges::max(encoded.meta.span().first(shape.tokens)), 255);
    }
  }
}

TEST_P(FloatEdge, TokensBelowFirstDecodeToZero) {
  const SectionShape shape{32, 64};
  const std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 38);
  for (const Side side : kSides) {
    const std::vector<float> decoded = encode(side, shape, x, 5).decode(kernels());
    for (size_t i = 0; i < size_t{5} * shape.dim; ++i) ASSERT_EQ(decoded[i], 0.0F) << i;
  }
}

TEST_P(CodecEdge, NothingValidGivesZeroBytes) {
  const SectionShape shape{32, 96};
  const std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 34);
  for (const Side side : kSides) {
    const EncodedSide encoded = encode(side, shape, x, 32);
    const auto zero = [](uint8_t byte) { return byte == 0; };
    EXPECT_EQ(encoded.param, 0U);
    EXPECT_TRUE(std::ranges::all_of(encoded.codes.span().first(code_bytes(info(), shape)), zero));
    EXPECT_TRUE(std::ranges::all_of(encoded.meta.span().first(meta_bytes(info(), side, shape)), zero));
  }
}

TEST_P(CodecEdge, ZerosComeBackAsZeros) {
  const SectionShape shape{64, 64};
  for (const Side side : kSides) {
    const std::vector<float> x = codec_input(kInputKinds[7], codec(), shape, 35);
    const EncodedSide encoded = encode(side, shape, x, 0);
    if (info().family != CodecFamily::kFloat) {
      const std::vector<float> zeros(x.size());
      EXPECT_TRUE(encoded.same_bytes(encode(side, shape, zeros, 0)));  // no trace of the zeros' signs
    }
    for (const float value : encoded.decode(kernels())) ASSERT_EQ(value, 0.0F);
  }
}

// Rotated codecs keep eight bits of their mean: the round trip bounds their error.
TEST_P(PlainEdge, AConstantIsExact) {
  const SectionShape shape{64, 64};
  const std::vector<float> x = codec_input(kInputKinds[6], codec(), shape, 36);
  for (const Side side : kSides) EXPECT_EQ(encode(side, shape, x, 0).decode(kernels()), x);
}

// Pairs of opposite rows have no mean, and rows of one magnitude have a scale in proportion to it.
TEST_P(RotatedEdge, ScaleCodesReachDownToOneAndThenFlush) {
  const SectionShape shape{32, 64};
  const std::array<int, 6> scale_codes{255, 1, 0, 2, 128, 254};
  std::vector<float> x(size_t{shape.tokens} * shape.dim);
  for (size_t i = 0; i < scale_codes.size() * 2 * shape.dim; ++i) {
    const size_t token = i / shape.dim;
    const int below_largest = scale_codes[token / 2] - 255;
    const double sign = i * 7 % 11 % 2 == 0 ? 1 : -1;
    x[i] = static_cast<float>(sign * std::exp2(below_largest / 16.0));
    if (token % 2 == 1) x[i] = -x[i - shape.dim];
  }
  for (const Side side : kSides) {
    const EncodedSide encoded = encode(side, shape, x, 0);
    for (uint32_t token = 0; token < shape.tokens; ++token) {
      EXPECT_EQ(encoded.meta[token], token / 2 < scale_codes.size() ? scale_codes[token / 2] : 0) << token;
      for (uint32_t channel = 0; encoded.meta[token] == 0 && channel < shape.dim; ++channel) {
        ASSERT_EQ(get_code(encoded.codes.data(), side, shape, info().bits, token, channel), 0U) << token;
      }
    }
  }
}

// Scaling a section by a power of two changes the params and nothing else.
TEST_P(CodedEdge, BytesDoNotDependOnTheSectionsMagnitude) {
  const SectionShape shape{64, 64};
  const std::vector<float> x = codec_input(kInputKinds[0], codec(), shape, 37);
  std::vector<float> scaled = x;
  for (float& value : scaled) value *= 0x1p40F;
  for (const Side side : kSides) {
    const EncodedSide a = encode(side, shape, x, 0);
    const EncodedSide b = encode(side, shape, scaled, 0);
    EXPECT_TRUE(std::ranges::equal(a.codes.span(), b.codes.span()));
    EXPECT_TRUE(std::ranges::equal(a.meta.span(), b.meta.span()));
    if (has_midpoints(info().family)) {
      EXPECT_EQ(b.param, a.param + 40);
    } else if (info().family == CodecFamily::kTrellis) {
      EXPECT_EQ(b.param & 0xFFFFU, ((a.param & 0xFFFFU) + 40 * 128) & 0xFFFFU);
      EXPECT_EQ(b.param >> 16 & 0x3FFFU, ((a.param >> 16) + 640) & 0x3FFFU);
      EXPECT_EQ(b.param >> 30, a.param >> 30);
    } else {
      EXPECT_EQ(b.param & 0xFFFFU, ((a.param & 0xFFFFU) + 640) & 0xFFFFU);
      EXPECT_EQ(b.param >> 16, ((a.param >> 16) + 640) & 0xFFFFU);
    }
  }
}

template <typename Keep>
auto isas_and_codecs(Keep keep) {
  std::vector<CodecId> ids;
  for (const CodecId id : all_codecs()) {
    if (keep(*find_codec(id))) ids.push_back(id);
  }
  return testing::Combine(testing::ValuesIn(kIsas), testing::ValuesIn(ids));
}

INSTANTIATE_TEST_SUITE_P(Isa, CodecEdge, isas_and_codecs([](const CodecInfo&) { return true; }),
                         isa_and_codec_name);
INSTANTIATE_TEST_SUITE_P(Isa, CodedEdge,
                         isas_and_codecs([](const CodecInfo& c) { return c.family != CodecFamily::kFloat; }),
                         isa_and_codec_name);
INSTANTIATE_TEST_SUITE_P(Isa, FloatEdge,
                         isas_and_codecs([](const CodecInfo& c) { return c.family == CodecFamily::kFloat; }),
                         isa_and_codec_name);
INSTANTIATE_TEST_SUITE_P(Isa, PlainEdge,
                         isas_and_codecs([](const CodecInfo& c) { return c.space == CodecSpace::kPlain; }),
                         isa_and_codec_name);
INSTANTIATE_TEST_SUITE_P(Isa, RotatedEdge, isas_and_codecs([](const CodecInfo& c) {
                           return c.family == CodecFamily::kRotated;
                         }),
                         isa_and_codec_name);
INSTANTIATE_TEST_SUITE_P(Isa, TrellisEdge, isas_and_codecs([](const CodecInfo& c) {
                           return c.family == CodecFamily::kTrellis;
                         }),
                         isa_and_codec_name);

}  // namespace
}  // namespace quire::test
