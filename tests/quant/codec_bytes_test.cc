// Every SIMD table writes the scalar table's bytes and reads its values, bit for bit.
#include <gtest/gtest.h>

#include <bit>

#include "tests/quant/inputs.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

class CodecBytes : public PerIsaAndCodec {
 protected:
  void expect_equal(SectionShape shape, Side side, const std::vector<float>& x, uint32_t first) const {
    const Kernels& scalar = *find_kernels(Isa::kScalar);
    const EncodedSide expected(scalar, codec(), side, shape, x.data(), first);
    const EncodedSide actual(kernels(), codec(), side, shape, x.data(), first);
    ASSERT_TRUE(actual.guards_intact());
    ASSERT_EQ(actual.param, expected.param);
    ASSERT_TRUE(actual.same_bytes(expected));
    const std::vector<float> expected_values = expected.decode(scalar);
    const std::vector<float> actual_values = actual.decode(kernels());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(actual_values[i]), std::bit_cast<uint32_t>(expected_values[i]))
          << "token " << i / shape.dim << ", channel " << i % shape.dim;
    }
  }
};

TEST_P(CodecBytes, EqualTheScalarOnesAtAllShapes) {
  uint64_t seed = 100;
  for (const SectionShape shape : all_shapes()) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      SCOPED_TRACE(shape_name(shape) + (side == Side::kKey ? ", keys" : ", values"));
      ++seed;
      expect_equal(shape, side, codec_input(kInputKinds[1], codec(), shape, seed), seed % 2 == 0 ? 0 : 4);
    }
  }
}

TEST_P(CodecBytes, EqualTheScalarOnesOnAllInputs) {
  for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 96}}) {
    for (const InputKind& kind : kInputKinds) {
      for (const Side side : {Side::kKey, Side::kValue}) {
        SCOPED_TRACE(std::string(kind.name) + (side == Side::kKey ? ", keys" : ", values"));
        expect_equal(shape, side, codec_input(kind, codec(), shape, 7), 0);
        expect_equal(shape, side, kind.make(shape, 8), 4);
      }
    }
  }
}

TEST_P(CodecBytes, EqualTheScalarOnesAtAnyFirstToken) {
  const SectionShape shape{64, 64};
  for (uint32_t first = 0; first <= 32; ++first) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      SCOPED_TRACE(first);
      expect_equal(shape, side, codec_input(kInputKinds[0], codec(), shape, first), first);
    }
  }
  expect_equal({32, 64}, Side::kKey, codec_input(kInputKinds[0], codec(), {32, 64}, 1), 32);
  expect_equal({32, 64}, Side::kValue, codec_input(kInputKinds[0], codec(), {32, 64}, 1), 32);
}

INSTANTIATE_TEST_SUITE_P(Isa, CodecBytes,
                         testing::Combine(testing::ValuesIn(kSimdIsas), testing::ValuesIn(all_codecs())),
                         isa_and_codec_name);

}  // namespace
}  // namespace quire::test
