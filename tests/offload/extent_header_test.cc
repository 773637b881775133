// The bytes of an extent's header against EXTENTS.md, written out here a second time.
#include "offload/extent_header.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <array>
#include <cstring>

namespace quire {
namespace {

using Block = std::array<uint8_t, kExtentHeaderBytes>;

ExtentHeader example() {
  ExtentHeader header;
  header.offset = 3U << 20;
  header.bytes = 1U << 20;
  header.generation = 0x01020304;
  header.stream = {0x1112131415161718, 0x21222324};
  header.entries = {{7, 4096, 640, 0xa1a2a3a4a5a6a7a8}, {8, 4736, (1U << 20) - 4736, 0xb1b2b3b4b5b6b7b8}};
  return header;
}

// The checksum field is the last that is set.
void sign(Block& block) {
  std::memset(block.data() + 56, 0, 8);
  const uint64_t checksum = XXH3_64bits(block.data(), block.size());
  std::memcpy(block.data() + 56, &checksum, 8);
}

Block example_bytes() {
  Block block{};
  std::memcpy(block.data(), "QUIREEXT", 8);
  const std::array<uint8_t, 36> fields{
      1,    0,    0,    0,                             // version
      4,    3,    2,    1,                             // generation
      0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,  // sequence
      0x24, 0x23, 0x22, 0x21,                          // layer
      0,    0,    0x10, 0,                             // bytes of the extent
      0,    0,    0x30, 0,    0,    0,    0,    0,     // offset of the extent
      2,    0,    0,    0,                             // entries
  };
  std::memcpy(block.data() + 8, fields.data(), fields.size());
  const std::array<uint8_t, 32> entries{7,    0,    0,    0,    64,   0,    10,   0,    0xa8, 0xa7, 0xa6,
                                        0xa5, 0xa4, 0xa3, 0xa2, 0xa1, 8,    0,    0,    0,    74,   0,
                                        0xb6, 0x3f, 0xb8, 0xb7, 0xb6, 0xb5, 0xb4, 0xb3, 0xb2, 0xb1};
  std::memcpy(block.data() + 64, entries.data(), entries.size());
  sign(block);
  return block;
}

TEST(ExtentHeader, BytesAreAsDocumented) {
  Block block;
  block.fill(0xee);
  write_extent_header(example(), block);
  EXPECT_EQ(block, example_bytes());
}

TEST(ExtentHeader, ReadsTheDocumentedBytes) {
  const auto header = parse_extent_header(example_bytes(), example().offset);
  ASSERT_TRUE(header.ok()) << header.status().message();
  EXPECT_EQ(*header, example());
}

TEST(ExtentHeader, HoldsAsManyEntriesAsItSays) {
  ExtentHeader header = example();
  header.entries.clear();
  for (uint32_t i = 0; i < kMaxExtentEntries; ++i) header.entries.push_back({i, 4096 + 128 * i, 128, i * 3});
  Block block;
  write_extent_header(header, block);
  const auto read = parse_extent_header(block, header.offset);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, header);
}

TEST(ExtentHeader, CompressedPagesAreVersionTwo) {
  ExtentHeader header = example();
  header.entries[1].compressed = true;
  Block expected = example_bytes();
  expected[8] = 2;
  expected[64 + 16 + 3] = 0x80;
  sign(expected);
  Block block;
  write_extent_header(header, block);
  EXPECT_EQ(block, expected);
  const auto read = parse_extent_header(block, header.offset);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(*read, header);
}

TEST(ExtentHeader, OneWrongByteAnywhereIsFound) {
  const Block good = example_bytes();
  for (size_t i = 0; i < good.size(); ++i) {
    Block bad = good;
    bad[i] ^= 0x40;
    EXPECT_FALSE(parse_extent_header(bad, example().offset).ok()) << "byte " << i;
  }
}

TEST(ExtentHeader, AHeaderOfAnotherPlaceIsNotTaken) {
  const auto read = parse_extent_header(example_bytes(), example().offset + (1U << 20));
  EXPECT_NE(read.status().message().find("another place"), std::string::npos) << read.status().message();
}

// Well signed, so that only the rule itself can refuse it.
void expect_refused(size_t at, uint32_t value, size_t bytes, const char* why) {
  Block block = example_bytes();
  std::memcpy(block.data() + at, &value, bytes);
  sign(block);
  const auto read = parse_extent_header(block, example().offset);
  ASSERT_FALSE(read.ok()) << why;
  EXPECT_NE(read.status().message().find(why), std::string::npos) << read.status().message();
}

TEST(ExtentHeader, ContradictionsAreRefused) {
  expect_refused(0, 0, 4, "does not start");
  expect_refused(8, 3, 4, "version");
  expect_refused(67, 0x80, 1, "version does not have");  // a compressed page in version 1
  expect_refused(28, 3U << 18, 4, "size");               // no power of two
  expect_refused(28, 64U << 10, 4, "size");              // too small
  expect_refused(28, 2U << 20, 4, "size");               // not aligned to itself
  expect_refused(40, 253, 4, "more pages than fit");
  expect_refused(44, 1, 4, "reserved");
  expect_refused(68, 63, 2, "overlap");      // starts inside the header
  expect_refused(70, 11, 2, "overlap");      // reaches into the next page
  expect_refused(70, 0, 2, "overlap");       // no page is empty
  expect_refused(86, 0x3fb7, 2, "overlap");  // leaves the extent
}

}  // namespace
}  // namespace quire
