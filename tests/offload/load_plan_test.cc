#include "offload/load_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace quire {
namespace {

constexpr uint32_t kPlannedHeader = 192;
constexpr uint32_t kPlannedSection = 8576;
constexpr uint32_t kPlannedHeads = 8;
constexpr uint32_t kPlannedPage = kPlannedHeader + kPlannedHeads * kPlannedSection;
constexpr uint64_t kMostPlanned = LoadPlan::most_bytes(kPlannedPage);

PageRead planned_page(uint64_t offset, HeadMask heads = kAllHeads, uint32_t extent = 0) {
  return {{offset, kPlannedPage, extent, 1}, kPlannedHeader, kPlannedSection, kPlannedHeads, heads};
}

TEST(LoadPlan, WholePagesThatFollowEachOtherAreOneRead) {
  LoadPlan plan;
  plan.build(std::vector{planned_page(4096), planned_page(4096 + kPlannedPage)}, kMostPlanned, kReadGap);
  ASSERT_EQ(plan.reads().size(), 1U);
  EXPECT_EQ(plan.reads()[0].bytes, run_align_up(2 * kPlannedPage));
  EXPECT_EQ(plan.bytes(), plan.reads()[0].bytes);
  EXPECT_EQ(plan.page_at(1), kPlannedPage);
}

TEST(LoadPlan, OneHeadIsReadInItsBlocks) {
  LoadPlan plan;
  plan.build(std::vector{planned_page(4096, 0b100)}, kMostPlanned, kReadGap);
  ASSERT_EQ(plan.reads().size(), 1U);
  const LoadPlan::Read& read = plan.reads()[0];
  EXPECT_EQ(read.memory, run_align_down(kPlannedHeader + 2 * kPlannedSection));
  EXPECT_LE(read.bytes, kPlannedSection + 2 * kRunAlign);
  EXPECT_EQ(plan.places(read)[0].offset, 4096 + kPlannedHeader + 2 * kPlannedSection);
  EXPECT_EQ(plan.places(read)[0].length, kPlannedSection);
  EXPECT_EQ(plan.page_at(0), 0U);
}

TEST(LoadPlan, ASmallGapIsReadThroughAndALargeOneIsNot) {
  LoadPlan plan;
  plan.build(std::vector{planned_page(4096, 0b101)}, kMostPlanned, kReadGap);
  ASSERT_EQ(plan.reads().size(), 1U);
  EXPECT_EQ(plan.pieces(plan.reads()[0]).size(), 2U);
  plan.build(std::vector{planned_page(4096, 0b1001)}, kMostPlanned, kReadGap);
  EXPECT_EQ(plan.reads().size(), 2U);
  plan.build(std::vector{planned_page(4096, 0b101)}, kMostPlanned, kRunAlign);
  EXPECT_EQ(plan.reads().size(), 2U);
}

TEST(LoadPlan, TheLastHeadOfAPageSharesARequestWithTheNextPagesFirst) {
  LoadPlan plan;
  plan.build(std::vector{planned_page(4096, 0x80), planned_page(4096 + kPlannedPage, 1)}, kMostPlanned,
             kReadGap);
  ASSERT_EQ(plan.reads().size(), 1U);
  const auto pieces = plan.pieces(plan.reads()[0]);
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0].page, 0U);
  EXPECT_EQ(pieces[1].page, 1U);
}

TEST(LoadPlan, NearlyAllIsAll) {
  EXPECT_TRUE(nearly_all(planned_page(4096, 0x7f), kReadGap));
  EXPECT_FALSE(nearly_all(planned_page(4096, 0x3f), kReadGap));
  EXPECT_FALSE(nearly_all(planned_page(4096, 0x7f), kRunAlign));
  PageRead many = planned_page(4096, 1);
  many.kv_heads = 65;  // more than a mask can tell
  EXPECT_TRUE(nearly_all(many, kRunAlign));
}

// Sixteen pages with gaps just under the limit would need more memory than a load has.
TEST(LoadPlan, GapsAreLeftOutWhereMemoryDoesNotDo) {
  constexpr uint32_t kSmall = 4096;
  std::vector<PageRead> pages;
  for (uint64_t i = 0; i < kRunPages; ++i)
    pages.push_back({{4096 + i * 5 * kSmall, kSmall, 0, 1}, 0, kSmall, 1, kAllHeads});
  LoadPlan plan;
  plan.build(pages, LoadPlan::most_bytes(kSmall), uint64_t{5} * kSmall);
  EXPECT_EQ(plan.reads().size(), kRunPages);
  EXPECT_LE(plan.bytes(), LoadPlan::most_bytes(kSmall));
  plan.build(std::span(pages).first(4), LoadPlan::most_bytes(kSmall), uint64_t{5} * kSmall);
  EXPECT_EQ(plan.reads().size(), 1U);
}

// Everything asked for is read exactly where it is looked for, into memory that no two requests share.
TEST(LoadPlan, AnyPagesAnyHeads) {
  std::mt19937_64 random(1);
  LoadPlan plan;
  for (int round = 0; round < 2000; ++round) {
    std::vector<PageRead> pages;
    uint64_t offset = 4096;
    const auto extent = static_cast<uint32_t>(random() % 4);
    for (size_t i = 0; i < 1 + random() % kRunPages; ++i) {
      const bool jumps = random() % 3 == 0;
      if (jumps) offset += random() % 8 * 4096 + random() % 64 * 64;
      const HeadMask heads = random() % 4 == 0 ? kAllHeads : 1 + random() % 255;
      pages.push_back(planned_page(offset, heads, random() % 10 == 0 ? extent + 1 : extent));
      offset += kPlannedPage;
    }
    const uint64_t gap = kRunAlign << random() % 4;
    plan.build(pages, kMostPlanned, gap);
    ASSERT_LE(plan.bytes(), kMostPlanned);
    std::vector<bool> taken(plan.bytes() / kRunAlign);
    std::vector<HeadMask> read_heads(pages.size());
    std::vector<uint32_t> pieces(pages.size());
    for (const LoadPlan::Read& read : plan.reads()) {
      ASSERT_EQ(read.memory % kRunAlign, 0U);
      ASSERT_EQ(read.bytes % kRunAlign, 0U);
      ASSERT_LE(read.memory + read.bytes, plan.bytes());
      for (uint64_t b = read.memory / kRunAlign; b < (read.memory + read.bytes) / kRunAlign; ++b) {
        ASSERT_FALSE(taken[b]);
        taken[b] = true;
      }
      const auto places = plan.places(read);
      const uint64_t base = run_align_down(places[0].offset);
      ASSERT_EQ(run_align_up(places.back().offset + places.back().length) - base, read.bytes);
      for (size_t i = 0; i < places.size(); ++i) {
        const LoadPlan::Piece& piece = plan.pieces(read)[i];
        const PageRead& page = pages[piece.page];
        const uint64_t in_page = places[i].offset - page.place.offset;
        ASSERT_EQ(read.memory + (places[i].offset - base), plan.page_at(piece.page) + in_page);
        ASSERT_EQ(places[i].extent, page.place.extent);
        const bool whole = page.heads == kAllHeads;
        ASSERT_EQ(in_page, whole ? 0 : kPlannedHeader + piece.first_head * kPlannedSection);
        ASSERT_EQ(places[i].length, whole ? kPlannedPage : piece.heads * kPlannedSection);
        read_heads[piece.page] |= first_heads(piece.heads) << piece.first_head;
        ++pieces[piece.page];
      }
    }
    for (uint32_t i = 0; i < pages.size(); ++i) {
      ASSERT_EQ(read_heads[i], pages[i].heads & first_heads(kPlannedHeads));
      ASSERT_EQ(plan.pieces_of(i), pieces[i]);
    }
  }
}

}  // namespace
}  // namespace quire
