// Page headers: every field's place, every fault, and bytes that may be anything.
#include "quant/page.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr size_t kChecksumAt = 20;

PageHeader sample_header(uint16_t kv_heads) {
  return {.kind = {.key_codec = CodecId::kRot4,
                   .value_codec = CodecId::kInt3,
                   .key_space = KeySpace::kPreRope,
                   .sink_tokens = 4,
                   .kv_heads = kv_heads,
                   .shape = {.tokens = 128, .dim = 96}},
          .token_count = 100,
          .rope_epoch = 0x01020304,
          .layer_params_hash = 0x1122334455667788};
}

std::vector<SectionEntry> sample_entries(size_t n) {
  std::vector<SectionEntry> entries(n);
  for (size_t i = 0; i < n; ++i) {
    entries[i] = {.checksum = 0xA1A2A3A4A5A6A7A8 + i,
                  .key_param = 0xB1B2B3B4 + static_cast<uint32_t>(i),
                  .value_param = 0xC1C2C3C4 + static_cast<uint32_t>(i)};
  }
  return entries;
}

std::vector<uint8_t> sample_page(uint16_t kv_heads) {
  const PageHeader header = sample_header(kv_heads);
  std::vector<uint8_t> page(page_layout(header.kind).header_bytes, 0xEE);
  write_page_header(header, sample_entries(kv_heads), page);
  return page;
}

// Makes the checksum right again after a change, so that the checks behind it are reached.
void sign(std::span<uint8_t> header) {
  std::fill_n(header.begin() + kChecksumAt, 4, uint8_t{0});
  const auto sum = static_cast<uint32_t>(XXH3_64bits(header.data(), header.size()));
  for (size_t i = 0; i < 4; ++i) header[kChecksumAt + i] = static_cast<uint8_t>(sum >> 8 * i);
}

HeaderFault read(std::span<const uint8_t> page, size_t room = 64) {
  PageHeader header{};
  std::vector<SectionEntry> entries(room);
  return read_page_header(page, &header, entries);
}

HeaderFault fault_after(size_t at, uint8_t value) {
  std::vector<uint8_t> page = sample_page(2);
  page[at] = value;
  sign(page);
  return read(page);
}

TEST(PageHeader, ComesBackAsWritten) {
  for (const uint16_t kv_heads : {1, 2, 3, 8, 64}) {
    const std::vector<uint8_t> page = sample_page(kv_heads);
    const PageHeader expected = sample_header(kv_heads);
    PageHeader header{};
    std::vector<SectionEntry> entries(kv_heads);
    ASSERT_EQ(read_page_header(page, &header, entries), HeaderFault::kNone);
    EXPECT_EQ(header.kind, expected.kind);
    EXPECT_EQ(header.token_count, expected.token_count);
    EXPECT_EQ(header.rope_epoch, expected.rope_epoch);
    EXPECT_EQ(header.layer_params_hash, expected.layer_params_hash);
    EXPECT_EQ(entries, sample_entries(kv_heads));
  }
}

TEST(PageHeader, HasItsFieldsWhereTheFormatSays) {
  std::vector<uint8_t> page = sample_page(2);
  ASSERT_EQ(page.size(), 64U);
  const std::vector<uint8_t> expected{
      'Q',  'R',  'P',  1,    16,   10,   1,    4,     // magic, version, codecs, flags, sinks
      128,  100,  96,   0,    2,    0,    0,    0,     // tokens, count, head_dim, kv_heads, zero
      4,    3,    2,    1,    0,    0,    0,    0,     // rope epoch, checksum (blanked below)
      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // layer params hash
      0xA8, 0xA7, 0xA6, 0xA5, 0xA4, 0xA3, 0xA2, 0xA1, 0xB4, 0xB3, 0xB2, 0xB1, 0xC4, 0xC3, 0xC2, 0xC1,
      0xA9, 0xA7, 0xA6, 0xA5, 0xA4, 0xA3, 0xA2, 0xA1, 0xB5, 0xB3, 0xB2, 0xB1, 0xC5, 0xC3, 0xC2, 0xC1};
  std::vector<uint8_t> signed_again = page;
  sign(signed_again);
  EXPECT_EQ(page, signed_again);
  std::fill_n(page.begin() + kChecksumAt, 4, uint8_t{0});
  EXPECT_EQ(page, expected);
}

TEST(PageHeader, PaddingIsZero) {
  const std::vector<uint8_t> page = sample_page(3);
  ASSERT_EQ(page.size(), 128U);
  EXPECT_TRUE(std::all_of(page.begin() + 32 + 3 * 16, page.end(), [](uint8_t b) { return b == 0; }));
}

TEST(PageHeader, NamesEveryFault) {
  EXPECT_EQ(fault_after(0, 'X'), HeaderFault::kMagic);
  EXPECT_EQ(fault_after(3, 2), HeaderFault::kVersion);
  EXPECT_EQ(fault_after(4, 7), HeaderFault::kCodec);
  EXPECT_EQ(fault_after(5, 0), HeaderFault::kCodec);
  EXPECT_EQ(fault_after(6, 2), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(7, 33), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(8, 48), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(9, 0), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(9, 129), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(10, 97), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(11, 2), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(12, 0), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(14, 1), HeaderFault::kGeometry);
  EXPECT_EQ(fault_after(6, 0), HeaderFault::kNone);
}

TEST(PageHeader, NeedsRoomForItsEntries) {
  const std::vector<uint8_t> page = sample_page(3);
  EXPECT_EQ(read(page, 2), HeaderFault::kGeometry);
  EXPECT_EQ(read(page, 3), HeaderFault::kNone);
}

TEST(PageHeader, EveryShorterPageIsShort) {
  const std::vector<uint8_t> page = sample_page(3);
  for (size_t n = 0; n < page.size(); ++n) {
    EXPECT_EQ(read(std::span(page).first(n)), HeaderFault::kShort) << n;
  }
}

TEST(PageHeader, EveryFlippedBitIsSeen) {
  std::vector<uint8_t> page = sample_page(3);
  for (size_t bit = 0; bit < page.size() * 8; ++bit) {
    page[bit / 8] ^= static_cast<uint8_t>(1U << bit % 8);
    EXPECT_NE(read(page), HeaderFault::kNone) << "bit " << bit;
    page[bit / 8] ^= static_cast<uint8_t>(1U << bit % 8);
  }
}

TEST(PageHeader, RandomBytesNeverPass) {
  Random random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint8_t> page(random.below(300));
    for (uint8_t& byte : page) byte = static_cast<uint8_t>(random.bits());
    if (round % 2 == 0 && page.size() >= 16) std::copy_n(sample_page(1).begin(), 4, page.begin());
    EXPECT_NE(read(page), HeaderFault::kNone);
  }
}

// Headers with a right checksum and wild fields: what passes must be usable.
TEST(PageHeader, SignedRandomFieldsPassOnlyWhenSound) {
  Random random(2);
  int passed = 0;
  for (int round = 0; round < 50000; ++round) {
    const auto kv_heads = static_cast<uint16_t>(1 + random.below(4));
    std::vector<uint8_t> page = sample_page(kv_heads);
    const uint32_t changes = 1 + random.below(3);
    for (uint32_t i = 0; i < changes; ++i)
      page[4 + random.below(12)] = static_cast<uint8_t>(random.below(130));
    const size_t claimed = 32 + 16 * (page[12] + size_t{256} * page[13]);
    if ((claimed + 63) / 64 * 64 == page.size()) sign(page);
    PageHeader header{};
    std::vector<SectionEntry> entries(8);
    if (read_page_header(page, &header, entries) != HeaderFault::kNone) continue;
    ++passed;
    EXPECT_NE(find_codec(header.kind.key_codec), nullptr);
    EXPECT_NE(find_codec(header.kind.value_codec), nullptr);
    EXPECT_TRUE(valid_shape(header.kind.shape));
    EXPECT_LE(header.token_count, header.kind.shape.tokens);
    EXPECT_LE(header.kind.sink_tokens, kMaxSinkTokens);
    EXPECT_LE(page_layout(header.kind).header_bytes, page.size());
  }
  EXPECT_GT(passed, 100);
}

TEST(SectionChecksum, IsXxh3) {
  EXPECT_EQ(section_checksum({}, 0, 0), 0x2D06800538D394C2U);  // published value of the empty input
}

TEST(SectionChecksum, DependsOnParamsAndBytes) {
  std::vector<uint8_t> section(256, 7);
  const uint64_t base = section_checksum(section, 1, 2);
  EXPECT_EQ(base, XXH3_64bits_withSeed(section.data(), section.size(), 0x200000001U));
  EXPECT_NE(base, section_checksum(section, 2, 1));
  section[255] ^= 1;
  EXPECT_NE(base, section_checksum(section, 1, 2));
}

TEST(PageLayout, ArraysFollowEachOtherAndSectionsAreAligned) {
  for (const SectionShape shape : all_shapes()) {
    for (const CodecInfo& key : kCodecs) {
      for (const CodecInfo& value : kCodecs) {
        for (const uint8_t sinks : {0, 4, 32}) {
          const PageKind kind{key.id, value.id, KeySpace::kPostRope, sinks, 3, shape};
          const PageLayout layout = page_layout(kind);
          const SectionLayout& s = layout.section;
          const size_t used = (size_t{shape.tokens} * shape.dim * (key.bits + value.bits)) / 8 +
                              meta_bytes(key, Side::kKey, shape) + meta_bytes(value, Side::kValue, shape) +
                              size_t{sinks} * shape.dim * 4;
          EXPECT_EQ(s.bytes, (used + 63) / 64 * 64);
          EXPECT_EQ(s.value_codes % 64, 0U);
          EXPECT_EQ(s.key_meta % 64, 0U);
          EXPECT_EQ(layout.header_bytes, 128U);
          EXPECT_EQ(layout.bytes, 128U + 3 * s.bytes);
        }
      }
    }
  }
}

TEST(PageLayout, PageBitsAreThoseOfTheDesign) {
  const PageKind kind{CodecId::kRot4, CodecId::kRot4, KeySpace::kPostRope, 0, 8, {64, 128}};
  const double bits = 8.0 * page_layout(kind).bytes / (2.0 * 64 * 128 * 8);
  EXPECT_NEAR(bits, 4.19, 0.02);
}

}  // namespace
}  // namespace quire::test
