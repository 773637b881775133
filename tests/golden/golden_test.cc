// Every instruction set writes and reads the committed golden pages. (Their truth is the independent Python
// writer beside them.)
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "quant/half.h"
#include "quant/steps.h"
#include "tests/golden/manifest.h"
#include "tests/quant/isas.h"

namespace quire::golden {
namespace {

nlohmann::ordered_json committed_manifest() {
  std::ifstream file(QUIRE_GOLDEN_MANIFEST);
  return nlohmann::ordered_json::parse(file);
}

class GoldenPages : public testing::TestWithParam<Isa> {};

TEST_P(GoldenPages, AreWrittenAndReadExactly) {
  const Kernels* kernels = find_kernels(GetParam());
  if (kernels == nullptr) GTEST_SKIP() << isa_name(GetParam()) << " is not in this build or machine";
  const nlohmann::ordered_json manifest = committed_manifest();
  const std::vector<PageSpec> specs = page_specs();
  ASSERT_EQ(manifest.size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    SCOPED_TRACE("page " + std::to_string(i));
    EXPECT_EQ(manifest_entry(specs[i], make_page(*kernels, specs[i])), manifest[i]);
  }
}

// One side of a section, handmade.
struct HandmadeSide {
  static constexpr SectionShape kShape{32, 32};
  alignas(64) std::array<uint8_t, size_t{32} * 32> codes{};
  std::array<uint8_t, 128> meta{};
  std::array<float, size_t{32} * 32> decoded{};

  void set_half(size_t index, uint16_t bits) { std::memcpy(&meta[index * 2], &bits, 2); }
  void decode_keys(const Kernels& kernels, CodecId codec, uint32_t param) {
    kernels.decode_key(codec, kShape, {codes.data(), meta.data(), param}, decoded.data());
  }
};

// FORMATS.md, "Foreign": scales and midpoints that no writer writes.
TEST_P(GoldenPages, ForeignHalvesEnterTheFormulaAsTheyAre) {
  const Kernels* kernels = find_kernels(GetParam());
  if (kernels == nullptr) GTEST_SKIP() << isa_name(GetParam()) << " is not in this build or machine";
  HandmadeSide keys;
  keys.codes.fill(0x01);  // int8: code 1, which is 126.5 below the centre
  const float infinity = std::numeric_limits<float>::infinity();
  const uint16_t nan = 0x7E00;
  keys.set_half(0, f32_to_f16(-1.5F));
  keys.set_half(1, f32_to_f16(infinity));
  keys.set_half(2, nan);
  keys.set_half(32 + 3, f32_to_f16(-infinity));
  keys.set_half(32 + 4, nan);
  keys.decode_keys(*kernels, CodecId::kInt8, 1);
  for (size_t token = 0; token < 32; ++token) {
    const float* row = &keys.decoded[token * 32];
    EXPECT_EQ(row[0], -126.5F * -1.5F * 2);
    EXPECT_EQ(row[1], -infinity);
    EXPECT_TRUE(std::isnan(row[2]));
    EXPECT_EQ(row[3], -infinity);
    EXPECT_TRUE(std::isnan(row[4]));
    EXPECT_EQ(row[5], 0.0F);
  }
}

TEST_P(GoldenPages, AForeignMeanCodeOfMinus128Decodes) {
  const Kernels* kernels = find_kernels(GetParam());
  if (kernels == nullptr) GTEST_SKIP() << isa_name(GetParam()) << " is not in this build or machine";
  HandmadeSide keys;  // codes 0: the level -127 of rot4; scale code 0 takes it away
  keys.meta[1] = 255;
  keys.meta[32 + 7] = 0x80;
  const int scale_step = 16;  // 2
  const int mean_step = 32;   // 4
  keys.decode_keys(*kernels, CodecId::kRot4, static_cast<uint32_t>(scale_step | mean_step << 16));
  EXPECT_EQ(keys.decoded[7], -128.0F * 4);
  EXPECT_EQ(keys.decoded[32 + 7], -127.0F * 2 - 128.0F * 4);
  EXPECT_EQ(keys.decoded[32 + 8], -127.0F * 2);
}

INSTANTIATE_TEST_SUITE_P(Isa, GoldenPages, testing::ValuesIn(test::kIsas),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

TEST(GoldenReader, BytesAfterTheLastSectionAreNoPartOfThePage) {
  for (const PageSpec& spec : page_specs()) {
    Page page = make_page(*find_kernels(Isa::kScalar), spec);
    page.bytes.insert(page.bytes.end(), 100, uint8_t{0xA5});
    PageHeader header{};
    std::vector<SectionEntry> entries(spec.header.kind.kv_heads);
    ASSERT_EQ(read_page_header(page.bytes, &header, entries), HeaderFault::kNone);
    EXPECT_EQ(header.kind, spec.header.kind);
    const PageLayout layout = page_layout(header.kind);
    for (size_t head = 0; head < entries.size(); ++head) {
      const std::span section(page.bytes.data() + layout.header_bytes + head * layout.section.bytes,
                              layout.section.bytes);
      const SectionEntry& entry = entries[head];
      EXPECT_EQ(section_checksum(section, entry.key_param, entry.value_param), entry.checksum);
    }
  }
}

// The pages of add_edges and add_steps meet what they are for.
TEST(GoldenEdges, AreMet) {
  for (const float m : kStepMantissa) EXPECT_EQ(127.0F * m / 127.0F, m);
  std::array<size_t, 256> scale_codes{};
  size_t saturated = 0;
  for (const PageSpec& spec : page_specs()) {
    const PageKind& kind = spec.header.kind;
    const PageLayout layout = page_layout(kind);
    if (spec.fill == Fill::kFading) {
      const Page page = make_page(*find_kernels(Isa::kScalar), spec);
      for (size_t head = 0; head < kind.kv_heads; ++head) {
        const uint8_t* section = page.bytes.data() + layout.header_bytes + head * layout.section.bytes;
        for (uint32_t t = 0; t < kind.shape.tokens; ++t) ++scale_codes[section[layout.section.key_meta + t]];
      }
    }
    if (spec.fill == Fill::kHuge && kind.key_codec == CodecId::kBf16) {
      const Page page = make_page(*find_kernels(Isa::kScalar), spec);
      const uint8_t* codes = page.bytes.data() + layout.header_bytes;
      for (size_t i = 0; i < code_bytes(*find_codec(kind.key_codec), kind.shape); i += 2) {
        saturated += codes[i] == 0x7F && (codes[i + 1] & 0x7F) == 0x7F ? 1 : 0;
      }
    }
  }
  EXPECT_GT(scale_codes[0], 0U);
  EXPECT_GT(scale_codes[1], 0U);
  EXPECT_GT(scale_codes[255], 0U);
  EXPECT_GT(saturated, 0U);
}

}  // namespace
}  // namespace quire::golden
