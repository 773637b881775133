// Pages encoded by the kernels against the scalar reference, byte for byte; decoded values bit for bit.
#include <bit>
#include <cstring>

#include "tests/cuda/encoded.h"

namespace quire::cuda::test {
namespace {

using quire::test::EncodedSection;

class CudaCodec : public testing::TestWithParam<CodecId> {
 protected:
  CodecId codec() const { return GetParam(); }

  static std::vector<SectionShape> shapes() {
    if (kSlice) return {{32, 64}, {32, 96}};
    return {{32, 32}, {64, 64}, {32, 128}, {64, 96}, {64, 128}, {128, 64}, {128, 256}};
  }

  void expect_references_bytes(SectionShape shape, uint32_t sinks) const {
    std::vector<std::vector<float>> keys;
    std::vector<std::vector<float>> values;
    uint64_t seed = 40;
    for (const quire::test::InputKind& input : quire::test::kInputKinds) {
      keys.push_back(quire::test::codec_input(input, codec(), shape, seed++));
      values.push_back(quire::test::codec_input(input, codec(), shape, seed++));
      if (find_codec(codec())->family != CodecFamily::kUniform) continue;
      for (float& x : keys.back()) x = std::clamp(x, -0x1.FEp127F, 0x1.FEp127F);
      for (float& x : values.back()) x = std::clamp(x, -0x1.FEp127F, 0x1.FEp127F);
    }
    expect_same_bytes(kind_of(codec(), codec(), shape, sinks), keys, values);
  }
};

TEST_P(CudaCodec, WritesTheReferencesBytes) {
  for (const SectionShape shape : shapes()) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    expect_references_bytes(shape, 0);
  }
}

// More sections than blocks run at a time: a block may fold several.
TEST_P(CudaCodec, FoldsManySections) {
  int processors = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
  const size_t count = std::min<size_t>(static_cast<size_t>(processors) * 7 + 1, kSlice ? 12 : 1000);
  constexpr SectionShape kShape{32, 64};
  std::vector<std::vector<float>> keys;
  std::vector<std::vector<float>> values;
  for (size_t i = 0; i < count; ++i) {
    keys.push_back(quire::test::normal_values(size_t{kShape.tokens} * kShape.dim, 500 + 2 * i));
    values.push_back(quire::test::normal_values(size_t{kShape.tokens} * kShape.dim, 501 + 2 * i));
  }
  expect_same_bytes(kind_of(codec(), codec(), kShape, 2), keys, values);
}

// Of a shape that kernels are compiled for, and of another.
TEST_P(CudaCodec, LeavesOutSinks) {
  for (const SectionShape shape : {SectionShape{32, 64}, SectionShape{32, 96}}) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    for (const uint32_t sinks : {4U, 32U}) {
      SCOPED_TRACE(sinks);
      expect_references_bytes(shape, sinks);
    }
  }
}

TEST_P(CudaCodec, DecodesTheReferencesValues) {
  for (const SectionShape shape : shapes()) {
    SCOPED_TRACE(quire::test::shape_name(shape));
    const size_t n = size_t{shape.tokens} * shape.dim;
    const Kernels& reference = *find_kernels(Isa::kScalar);
    const PageKind kind = kind_of(codec(), codec(), shape);
    std::vector<EncodedSection> sections;
    for (uint64_t seed = 0; seed < 2; ++seed) {
      const std::vector<float> keys = quire::test::normal_values(n, 60 + seed);
      const std::vector<float> values = quire::test::normal_values(n, 70 + seed);
      sections.emplace_back(reference, kind, keys.data(), values.data());
    }
    const DeviceSections device(sections);
    const DeviceArray<float> keys(2 * n);
    const DeviceArray<float> values(2 * n);
    expect_ran(
        decode_sections({section_format(kind), device.refs(), keys.data(), values.data(), 2}, nullptr));
    const std::vector<float> got_keys = keys.host();
    const std::vector<float> got_values = values.host();
    std::vector<float> expected(n);
    for (size_t i = 0; i < 2; ++i) {
      const EncodedSection& section = sections[i];
      const uint8_t* at = section.bytes.data();
      const SectionLayout& layout = section.layout;
      reference.decode_key(codec(), shape, {at + layout.key_codes, at + layout.key_meta, section.key_param},
                           expected.data());
      ASSERT_EQ(std::memcmp(got_keys.data() + i * n, expected.data(), n * sizeof(float)), 0);
      reference.decode_value(codec(), shape,
                             {at + layout.value_codes, at + layout.value_meta, section.value_param},
                             expected.data());
      ASSERT_EQ(std::memcmp(got_values.data() + i * n, expected.data(), n * sizeof(float)), 0);
    }
  }
}

TEST_P(CudaCodec, DecodesSinksAsTheyStand) {
  constexpr SectionShape kShape{32, 64};
  constexpr uint32_t kSinks = 3;
  const size_t n = size_t{kShape.tokens} * kShape.dim;
  const std::vector<float> keys = quire::test::normal_values(n, 80);
  const std::vector<float> values = quire::test::normal_values(n, 81);
  const PageKind kind = kind_of(codec(), codec(), kShape, kSinks);
  std::vector<EncodedSection> sections;
  sections.emplace_back(*find_kernels(Isa::kScalar), kind, keys.data(), values.data());
  const DeviceSections device(sections);
  const DeviceArray<float> got_keys(n);
  const DeviceArray<float> got_values(n);
  expect_ran(
      decode_sections({section_format(kind), device.refs(), got_keys.data(), got_values.data(), 1}, nullptr));
  const SectionLayout& layout = sections[0].layout;
  std::vector<float> expected(kSinks * kShape.dim);
  for (const bool key : {true, false}) {
    const uint8_t* sinks = sections[0].bytes.data() + (key ? layout.sink_keys : layout.sink_values);
    for (size_t i = 0; i < expected.size(); ++i) {
      uint32_t bits = 0;
      std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, sinks + 2 * i, 2);  // the upper half of an f32
      std::memcpy(&expected[i], &bits, sizeof bits);
    }
    const std::vector<float> got = (key ? got_keys : got_values).host();
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), expected.size() * sizeof(float)), 0);
  }
}

// Sides of unlike codecs, where the parts of a section do not fill it: in shapes that kernels are compiled
// for, and in others.
TEST(CudaCodecPairs, LeaveNothingBehindTheLastPart) {
  constexpr std::pair<CodecId, CodecId> kPairs[] = {{CodecId::kInt4, CodecId::kRot4},
                                                    {CodecId::kInt4, CodecId::kTcq4},
                                                    {CodecId::kRot4, CodecId::kInt4},
                                                    {CodecId::kRot4, CodecId::kBf16},
                                                    {CodecId::kRot4, CodecId::kNuq4}};
  for (const SectionShape shape : {SectionShape{32, 64}, SectionShape{64, 32}}) {
    for (const auto& [key, value] : kPairs) {
      SCOPED_TRACE(std::string(find_codec(value)->name) + ", " + quire::test::shape_name(shape));
      const PageKind kind = kind_of(key, value, shape);
      const SectionLayout layout = section_format(kind).layout;
      EXPECT_GT(layout.bytes, layout.sink_values);
      const size_t n = size_t{shape.tokens} * shape.dim;
      expect_same_bytes(kind, {quire::test::normal_values(n, 90)}, {quire::test::normal_values(n, 91)});
    }
  }
}

std::string codec_name(const testing::TestParamInfo<CodecId>& tested) {
  return std::string(find_codec(tested.param)->name);
}

INSTANTIATE_TEST_SUITE_P(Codecs, CudaCodec, testing::ValuesIn(codecs_with_kernels()), codec_name);

}  // namespace
}  // namespace quire::cuda::test
