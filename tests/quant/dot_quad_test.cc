// The layout of code arrays against the arrays of FORMATS.md, built the other way round: byte by byte in the
// order in which they lie.
#include "quant/dot_quad.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

using Codes = std::vector<uint32_t>;  // [tokens][dim]

struct Axes {
  uint32_t reduction;
  uint32_t lanes;
};

Axes axes_of(Side side, SectionShape shape) {
  return side == Side::kKey ? Axes{shape.dim, shape.tokens} : Axes{shape.tokens, shape.dim};
}

uint32_t element(const Codes& codes, Side side, SectionShape shape, uint32_t reduction, uint32_t lane) {
  const uint32_t token = side == Side::kKey ? lane : reduction;
  const uint32_t channel = side == Side::kKey ? reduction : lane;
  return codes[size_t{token} * shape.dim + channel];
}

// [R / (4 quads)][L][4] bytes of `width`-bit fields; `shift` picks the bits of the code.
void append_plane(const Codes& codes, Side side, SectionShape shape, uint32_t width, uint32_t shift,
                  std::vector<uint8_t>* bytes) {
  const Axes axes = axes_of(side, shape);
  const uint32_t quads = 8 / width;
  for (uint32_t group = 0; group < axes.reduction / (4 * quads); ++group) {
    for (uint32_t lane = 0; lane < axes.lanes; ++lane) {
      for (uint32_t member = 0; member < 4; ++member) {
        uint32_t byte = 0;
        for (uint32_t field = 0; field < quads; ++field) {
          const uint32_t code = element(codes, side, shape, (group * quads + field) * 4 + member, lane);
          byte |= (code >> shift & ((1U << width) - 1)) << field * width;
        }
        bytes->push_back(static_cast<uint8_t>(byte));
      }
    }
  }
}

std::vector<uint8_t> expected_bytes(const Codes& codes, Side side, SectionShape shape, uint32_t bits) {
  std::vector<uint8_t> bytes;
  append_plane(codes, side, shape, bits == 3 ? 2 : bits, 0, &bytes);
  if (bits == 3) append_plane(codes, side, shape, 1, 2, &bytes);
  return bytes;
}

TEST(DotQuad, CodesLieAsTheFormatSaysAndComeBack) {
  Random random(6);
  for (const SectionShape shape : all_shapes()) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      for (const uint32_t bits : {8U, 4U, 3U, 2U, 1U}) {
        SCOPED_TRACE(shape_name(shape) + ", bits " + std::to_string(bits));
        Codes codes(size_t{shape.tokens} * shape.dim);
        for (uint32_t& code : codes) code = random.below(1U << bits);
        std::vector<uint8_t> bytes(codes.size() * bits / 8);
        for (size_t i = 0; i < codes.size(); ++i) {
          put_code(bytes.data(), side, shape, bits, static_cast<uint32_t>(i / shape.dim),
                   static_cast<uint32_t>(i % shape.dim), codes[i]);
        }
        ASSERT_EQ(bytes, expected_bytes(codes, side, shape, bits));
        for (size_t i = 0; i < codes.size(); ++i) {
          ASSERT_EQ(get_code(bytes.data(), side, shape, bits, static_cast<uint32_t>(i / shape.dim),
                             static_cast<uint32_t>(i % shape.dim)),
                    codes[i]);
        }
      }
    }
  }
}

TEST(DotQuad, FloatsLieAlongTheReductionAxis) {
  const SectionShape shape{32, 64};
  EXPECT_EQ(float_index(Side::kKey, shape, 32, 5, 7), 7U * 32 + 5);
  EXPECT_EQ(float_index(Side::kValue, shape, 32, 5, 7), 5U * 64 + 7);
  EXPECT_EQ(float_index(Side::kKey, shape, 16, 5, 7), (3U * 32 + 5) * 2 + 1);
  EXPECT_EQ(float_index(Side::kValue, shape, 16, 5, 8), (2U * 64 + 8) * 2 + 1);
}

}  // namespace
}  // namespace quire::test
