#include "offload/extent_table.h"

#include <gtest/gtest.h>

#include <numeric>

namespace quire {
namespace {

constexpr uint32_t kKiB = 1 << 10;
constexpr uint64_t kMiB = 1 << 20;

class ExtentTableTest : public ::testing::Test {
 protected:
  // A run of pages of one length, written at once.
  std::vector<Place> put(StreamId stream, uint32_t count, uint32_t length) {
    std::vector<PutPage> pages(count);
    for (uint32_t i = 0; i < count; ++i) pages[i] = {i, length, 1000 + i};
    std::vector<Place> places(count);
    const Status status = table_.reserve(stream, pages, places);
    EXPECT_TRUE(status.ok()) << status.message();
    if (!status.ok()) return {};
    table_.commit(pages, places);
    table_.end_write(places[0].extent);
    return places;
  }
  StatusCode try_put(StreamId stream, uint32_t count, uint32_t length) {
    const std::vector<PutPage> pages(count, PutPage{0, length, 0});
    std::vector<Place> places(count);
    return table_.reserve(stream, pages, places).code();
  }

  ExtentTable table_{64 * kMiB};
};

TEST_F(ExtentTableTest, PagesOfARunLieBackToBackAndRunsStartAtBlocks) {
  const auto first = put({1, 0}, 3, 640);
  EXPECT_EQ(first[0].offset, 4096U);
  EXPECT_EQ(first[1].offset, 4096U + 640);
  EXPECT_EQ(first[2].offset, 4096U + 1280);
  const auto second = put({1, 0}, 1, 640);
  EXPECT_EQ(second[0].offset, 8192U);
  EXPECT_EQ(second[0].extent, first[0].extent);
  EXPECT_EQ(table_.live_bytes(), 4U * 640);
  EXPECT_EQ(table_.used_bytes(), kMinExtentBytes);
}

TEST_F(ExtentTableTest, ExtentsOfAStreamDoubleUpToFourMiB) {
  // One page that leaves no room for a second one of its size in the smallest extent.
  std::vector<uint64_t> sizes;
  for (int i = 0; i < 8; ++i) {
    const uint64_t before = table_.used_bytes();
    while (table_.used_bytes() == before) put({1, 0}, 1, 100 * kKiB);
    sizes.push_back(table_.used_bytes() - before);
  }
  EXPECT_EQ(sizes, (std::vector<uint64_t>{128 * kKiB, 256 * kKiB, 512 * kKiB, kMiB, 2 * kMiB, 4 * kMiB,
                                          4 * kMiB, 4 * kMiB}));
  // Another stream starts small, in an extent of its own.
  const uint64_t before = table_.used_bytes();
  const auto other = put({2, 0}, 1, 640);
  EXPECT_EQ(table_.used_bytes() - before, kMinExtentBytes);
  EXPECT_EQ(other[0].offset % kMinExtentBytes, 4096U);
}

TEST_F(ExtentTableTest, SmallPagesGetExtentsThatTheyCanFill) {
  // 252 pages of 1088 bytes fill 256 KiB: growing further would leave the rest empty.
  constexpr uint32_t kLength = 1088;
  for (int i = 0; i < 40; ++i) {
    const auto room = table_.room({1, 0}, kLength);
    put({1, 0}, std::min(room.pages, static_cast<uint32_t>(room.bytes / kLength)), kLength);
  }
  EXPECT_GT(table_.live_bytes(), 8 * kMiB);
  EXPECT_LE(table_.used_bytes(), table_.live_bytes() * 103 / 100);
}

TEST_F(ExtentTableTest, RoomIsWhatTheNextRunFillsTheExtentWith) {
  auto room = table_.room({1, 0}, 640);
  EXPECT_EQ(room.bytes, kMinExtentBytes - 4096U);
  EXPECT_EQ(room.pages, kMaxExtentEntries);
  const auto first = put({1, 0}, 2, 640);
  room = table_.room({1, 0}, 640);
  EXPECT_EQ(room.bytes, kMinExtentBytes - 8192U);
  EXPECT_EQ(room.pages, kMaxExtentEntries - 2);
  const auto rest = put({1, 0}, 1, static_cast<uint32_t>(room.bytes));
  EXPECT_EQ(rest[0].extent, first[0].extent);
  // Full: the next extent is twice as large.
  EXPECT_EQ(table_.room({1, 0}, 8 * kKiB).bytes, 2U * kMinExtentBytes - 4096);
  // A page that is larger than what is left, or than the next size, is told where it fits.
  EXPECT_EQ(table_.room({1, 0}, 1 << 20).bytes, 2 * kMiB - 4096);
  EXPECT_EQ(table_.room({1, 0}, 4 << 20).bytes, 0U);
}

TEST_F(ExtentTableTest, RunsThatNoExtentHoldsAreRefused) {
  EXPECT_EQ(try_put({1, 0}, 1, 4 * kMiB), StatusCode::kInvalid);
  EXPECT_EQ(try_put({1, 0}, kMaxExtentEntries + 1, 64), StatusCode::kInvalid);
  EXPECT_EQ(table_.used_bytes(), 0U);
  EXPECT_EQ(try_put({1, 0}, 1, 4 * kMiB - 4096), StatusCode::kOk);
}

TEST_F(ExtentTableTest, TheBudgetIsALimit) {
  ExtentTable small(kMiB);
  std::vector<PutPage> page{{0, 300 * kKiB, 0}};
  std::vector<Place> place(1);
  EXPECT_TRUE(small.reserve({1, 0}, page, place).ok());
  EXPECT_TRUE(small.reserve({2, 0}, page, place).ok());
  const Status refused = small.reserve({3, 0}, page, place);
  EXPECT_EQ(refused.code(), StatusCode::kOverBudget);
  EXPECT_NE(refused.message().find("1048576"), std::string::npos) << refused.message();
  EXPECT_EQ(small.room({3, 0}, 300 * kKiB).bytes, 0U);
}

TEST_F(ExtentTableTest, WhenLargeExtentsRunOutSmallerOnesServe) {
  ExtentTable small(kMiB + kMinExtentBytes);
  std::vector<PutPage> page{{0, 100 * kKiB, 0}};
  std::vector<Place> place(1);
  int runs = 0;
  while (small.reserve({1, 0}, page, place).ok()) ++runs;
  EXPECT_EQ(small.used_bytes(), small.capacity());
  EXPECT_GE(runs, 10);
}

TEST_F(ExtentTableTest, AnExtentWithoutLivePagesIsReusedUnderANewGeneration) {
  const auto first = put({1, 0}, 2, 640);
  table_.drop(std::span(first).first(1));
  EXPECT_TRUE(table_.valid(first[1]));
  EXPECT_EQ(table_.used_bytes(), kMinExtentBytes);
  table_.drop(std::span(first).last(1));
  EXPECT_EQ(table_.used_bytes(), 0U);
  EXPECT_FALSE(table_.valid(first[0]));
  const auto second = put({2, 0}, 2, 640);
  EXPECT_EQ(second[0].offset, first[0].offset);
  EXPECT_GT(second[0].generation, first[0].generation);
  EXPECT_FALSE(table_.valid(first[0]));
  // A stale drop does nothing.
  table_.drop(first);
  EXPECT_EQ(table_.live_bytes(), 2U * 640);
}

TEST_F(ExtentTableTest, AWriteUnderWayKeepsTheExtent) {
  const std::vector<PutPage> pages{{0, 640, 0}};
  std::vector<Place> places(1);
  ASSERT_TRUE(table_.reserve({1, 0}, pages, places).ok());
  table_.drop(places);
  EXPECT_EQ(table_.live_bytes(), 0U);
  EXPECT_EQ(table_.used_bytes(), kMinExtentBytes);
  table_.end_write(places[0].extent);
  EXPECT_EQ(table_.used_bytes(), 0U);
}

TEST_F(ExtentTableTest, PlacesOutsideWhatWasWrittenAreNotValid) {
  Place place = put({1, 0}, 1, 640)[0];
  place.offset -= 4096;
  EXPECT_FALSE(table_.valid(place));  // the header
  place.offset += 8192;
  EXPECT_FALSE(table_.valid(place));  // beyond the last run
}

TEST_F(ExtentTableTest, HeadersAreDueWhenAnExtentIsClosedAndQuiet) {
  const std::vector<PutPage> pages{{5, 60 * kKiB, 55}};
  std::vector<Place> a(1);
  std::vector<Place> b(1);
  std::vector<Place> c(1);
  ASSERT_TRUE(table_.reserve({1, 9}, pages, a).ok());
  ASSERT_TRUE(table_.reserve({1, 9}, pages, b).ok());
  ASSERT_TRUE(table_.reserve({1, 9}, pages, c).ok());
  ASSERT_EQ(a[0].extent, b[0].extent);
  ASSERT_NE(a[0].extent, c[0].extent);
  table_.commit(pages, b);  // the second write ends first
  table_.end_write(b[0].extent);
  EXPECT_FALSE(table_.take_header());
  table_.commit(pages, a);
  table_.end_write(a[0].extent);
  const auto header = table_.take_header();
  ASSERT_TRUE(header);
  EXPECT_EQ(header->stream, (StreamId{1, 9}));
  EXPECT_EQ(header->generation, a[0].generation);
  EXPECT_EQ(header->entries, (std::vector<ExtentEntry>{{5, 4096, 60 * kKiB, 55}, {5, 65536, 60 * kKiB, 55}}));
  EXPECT_FALSE(table_.take_header());
  // Writing the header is a write: the extent stays until it has ended.
  table_.drop(a);
  table_.drop(b);
  EXPECT_EQ(table_.used_bytes(), 3U * kMinExtentBytes);
  table_.end_write(a[0].extent);
  EXPECT_EQ(table_.used_bytes(), 2U * kMinExtentBytes);
}

TEST_F(ExtentTableTest, TablesOfStreamsThatAreGoneAreGone) {
  const uint64_t before = table_.table_bytes();
  std::vector<std::vector<Place>> all;
  for (uint64_t i = 0; i < 300; ++i) all.push_back(put({i, 0}, 1, 640));
  EXPECT_GT(table_.table_bytes(), before);
  for (const auto& places : all) table_.drop(places);
  EXPECT_EQ(table_.used_bytes(), 0U);
  // Hash buckets and one list of free space stay.
  EXPECT_LT(table_.table_bytes(), before + 16384);
}

}  // namespace
}  // namespace quire
