// Every codec of the registry has kernels, or is refused with a sentence; a layer's own levels reach them.
#include <cstring>

#include "quant/nuq_levels.h"
#include "tests/cuda/support.h"

namespace quire::cuda::test {
namespace {

using quire::test::EncodedSide;

class CudaRegistry : public CudaTest {};

TEST_F(CudaRegistry, EveryCodecFoldsAndUnfoldsOrIsRefused) {
  constexpr SectionShape kShape{32, 32};
  for (const CodecInfo& codec : kCodecs) {
    SCOPED_TRACE(codec.name);
    const PageKind kind = kind_of(codec.id, codec.id, kShape);
    const char* refusal = device_refusal(kind);
    EXPECT_EQ(refusal == nullptr, has_kernels(codec.id));
    if (refusal != nullptr) {
      EXPECT_GT(std::strlen(refusal), 20U);
      continue;
    }
    const size_t n = size_t{kShape.tokens} * kShape.dim;
    const SectionFormat format = section_format(kind);
    const DeviceArray<float> x(quire::test::normal_values(n, 7));
    const DeviceArray<uint8_t> bytes(format.layout.bytes);
    const DeviceArray<uint8_t*> sections(std::vector<uint8_t*>{bytes.data()});
    const DeviceArray<uint32_t> params(2);
    const EncodeInput input = dense_input(x.data(), format.shape);
    expect_ran(encode_sections({format, input, input, sections.data(), params.data(), 1}, nullptr));
    const DeviceArray<SectionRef> refs(
        std::vector<SectionRef>{{bytes.data(), params.host()[0], params.host()[1]}});
    const DeviceArray<float> keys(n);
    expect_ran(decode_sections({format, refs.data(), keys.data(), nullptr, 1}, nullptr));
    const std::vector<float> from = x.host();
    const std::vector<float> to = keys.host();
    double error = 0;
    for (size_t i = 0; i < n; ++i) error += (from[i] - to[i]) * (from[i] - to[i]);
    EXPECT_LT(error / static_cast<double>(n), .5);  // a code of one bit misses .3 of the variance
  }
}

TEST_F(CudaRegistry, RefusesWhatIsNotInTheRegistry) {
  EXPECT_EQ(device_refusal(kind_of(CodecId::kRot4, CodecId::kTcq2, {64, 128})), nullptr);
  EXPECT_NE(device_refusal(kind_of(CodecId{200}, CodecId::kTcq2, {64, 128})), nullptr);
  EXPECT_NE(device_refusal(kind_of(CodecId::kRot4, CodecId::kTcq2, {48, 128})), nullptr);
  EXPECT_NE(device_refusal(kind_of(CodecId::kRot4, CodecId::kTcq2, {64, 100})), nullptr);
}

// Levels of a layer: those of a calibration file, handed over in the device's memory.
TEST_F(CudaRegistry, FoldsWithTheLevelsOfTheLayer) {
  constexpr SectionShape kShape{32, 64};
  const size_t n = size_t{kShape.tokens} * kShape.dim;
  const Kernels& reference = *find_kernels(Isa::kScalar);
  for (const CodecInfo& codec : kCodecs) {
    if (codec.family != CodecFamily::kNonUniform) continue;
    SCOPED_TRACE(codec.name);
    std::vector<int8_t> levels[2];
    for (uint32_t i = 0; i < 1U << codec.bits; ++i) {
      levels[0].push_back(static_cast<int8_t>(-120 + static_cast<int>(i * i + 5 * i) / 2));
      levels[1].push_back(static_cast<int8_t>(-10 + static_cast<int>(7 * i)));
    }
    const std::vector<float> x = quire::test::normal_values(n, 8);
    SectionFormat format = section_format(kind_of(codec.id, codec.id, kShape));
    const DeviceArray<int8_t> key_levels(levels[0]);
    const DeviceArray<int8_t> value_levels(levels[1]);
    format.key_levels = key_levels.data();
    format.value_levels = value_levels.data();
    const DeviceArray<float> device_x(x);
    const DeviceArray<uint8_t> bytes(format.layout.bytes);
    const DeviceArray<uint8_t*> sections(std::vector<uint8_t*>{bytes.data()});
    const DeviceArray<uint32_t> params(2);
    const EncodeInput input = dense_input(device_x.data(), kShape);
    expect_ran(encode_sections({format, input, input, sections.data(), params.data(), 1}, nullptr));
    const std::vector<uint8_t> got = bytes.host();
    const EncodedSide keys(reference, {codec.id, levels[0].data()}, Side::kKey, kShape, x.data(), 0);
    const EncodedSide values(reference, {codec.id, levels[1].data()}, Side::kValue, kShape, x.data(), 0);
    const auto expect_bytes = [&](uint32_t at, const uint8_t* expected, size_t count) {
      for (size_t b = 0; b < count; ++b) ASSERT_EQ(got[at + b], expected[b]) << "byte " << at + b;
    };
    expect_bytes(format.layout.key_codes, keys.codes.data(), code_bytes(codec, kShape));
    expect_bytes(format.layout.value_codes, values.codes.data(), code_bytes(codec, kShape));
    expect_bytes(format.layout.key_meta, keys.meta.data(), meta_bytes(codec, Side::kKey, kShape));
    expect_bytes(format.layout.value_meta, values.meta.data(), meta_bytes(codec, Side::kValue, kShape));
    EXPECT_EQ(params.host(), (std::vector<uint32_t>{keys.param, values.param}));
    const DeviceArray<SectionRef> refs(std::vector<SectionRef>{{bytes.data(), keys.param, values.param}});
    const DeviceArray<float> decoded(n);
    expect_ran(decode_sections({format, refs.data(), nullptr, decoded.data(), 1}, nullptr));
    EXPECT_EQ(decoded.host(), values.decode(reference));
  }
}

}  // namespace
}  // namespace quire::cuda::test
