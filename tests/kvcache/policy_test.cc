// Which pages leave memory first.
#include "kvcache/policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace quire {
namespace {

constexpr PageState F = PageState::kFixed;
constexpr PageState D = PageState::kDirty;
constexpr PageState C = PageState::kClean;

TEST(Policy, TakesTheNewestRunOfTheWantedState) {
  const std::vector<PageState> states{D, D, C, D, D, D, C, F};
  const TableSnapshot table{1, 100, states};
  const Victims dirty = choose_victims({&table, 1}, D, 16);
  EXPECT_EQ(dirty.first, 103U);
  EXPECT_EQ(dirty.count, 3U);
  const Victims clean = choose_victims({&table, 1}, C, 16);
  EXPECT_EQ(clean.first, 106U);
  EXPECT_EQ(clean.count, 1U);
}

TEST(Policy, LimitsTheRun) {
  const std::vector<PageState> states(10, D);
  const TableSnapshot table{1, 0, states};
  const Victims victims = choose_victims({&table, 1}, D, 4);
  EXPECT_EQ(victims.first, 6U);
  EXPECT_EQ(victims.count, 4U);
}

TEST(Policy, IdleSequencesGoFirstThenTheTableThatReachesFurthest) {
  const std::vector<PageState> states(4, C);
  const std::vector<TableSnapshot> tables{{5, 0, states}, {5, 9, states}, {3, 0, states}, {7, 50, states}};
  EXPECT_EQ(choose_victims(tables, C, 2).table, 2U);
  EXPECT_EQ(choose_victims(std::span(tables).first(2), C, 2).table, 1U);
}

TEST(Policy, FindsNothingWhereNothingIs) {
  EXPECT_EQ(choose_victims({}, D, 4).count, 0U);
  const std::vector<PageState> states{F, C, F};
  const TableSnapshot table{1, 0, states};
  EXPECT_EQ(choose_victims({&table, 1}, D, 4).count, 0U);
}

// A cyclic scan over 100 pages with room for 60: the newest-first rule keeps a fixed set and hits on all of
// it; least recently used would hit never.
TEST(Policy, KeepsAFixedSetUnderACyclicScan) {
  std::vector<PageState> states(100, F);
  for (int i = 0; i < 60; ++i) states[static_cast<size_t>(i)] = C;
  int hits = 0;
  for (int round = 0; round < 5; ++round) {
    for (size_t page = 0; page < 100; ++page) {
      if (states[page] != F) {
        ++hits;
        continue;
      }
      // Loaded through staging memory; it could only stay if another page left.
      const TableSnapshot table{1, 0, states};
      const Victims victims = choose_victims({&table, 1}, C, 1);
      ASSERT_EQ(victims.first, 59U);
    }
  }
  EXPECT_EQ(hits, 300);
}

}  // namespace
}  // namespace quire
