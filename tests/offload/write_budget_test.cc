// The write budget per day: the bucket against a day of simulated writing, and a whole engine that must keep
// to it.
#include "offload/write_budget.h"

#include <gtest/gtest.h>

#include "tests/offload/support.h"

namespace quire::testing {
namespace {

constexpr uint64_t kDay = 24 * 3600;

TEST(WriteBudget, WithoutALimitAllowsEverything) {
  WriteBudget budget(0, 0, 0s);
  budget.take(UINT64_MAX);
  EXPECT_EQ(budget.available(0s), UINT64_MAX);
}

TEST(WriteBudget, AGreedyWriterGetsADaysShareAndOneHour) {
  constexpr uint64_t kPerDay = 24 << 20;
  WriteBudget budget(kPerDay, 4096, 0s);
  uint64_t written = 0;
  for (uint64_t second = 0; second <= kDay; ++second) {
    const uint64_t now = budget.available(std::chrono::seconds(second)) / 4096 * 4096;
    budget.take(now);
    written += now;
  }
  EXPECT_LE(written, kPerDay + kPerDay / 24);
  EXPECT_GE(written, kPerDay);
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(kDay));
}

TEST(WriteBudget, WhatWasNotWrittenComesBack) {
  WriteBudget budget(24 << 20, 4096, 0s);
  const uint64_t all = budget.available(0s);
  budget.take(8192);
  budget.give_back(4096);
  EXPECT_EQ(budget.available(0s), all - 4096);
  budget.give_back(uint64_t{1} << 40);
  EXPECT_EQ(budget.available(0s), all) << "never more than the bucket holds";
}

TEST(WriteBudget, SmallStepsOfTimeAddUp) {
  WriteBudget budget(86400, 4096, 0s);  // one byte a second
  budget.take(4096);
  for (uint64_t ms = 1; ms <= 10000; ++ms) budget.available(std::chrono::milliseconds(ms));
  EXPECT_EQ(budget.available(10s), 10U);
}

TEST(WriteBudget, AClockThatGoesBackRefillsNothingTwice) {
  WriteBudget budget(86400, 4096, 100s);
  budget.take(4096);
  EXPECT_EQ(budget.available(150s), 50U);
  EXPECT_EQ(budget.available(0s), 50U);
  EXPECT_EQ(budget.available(150s), 50U);
  EXPECT_EQ(budget.available(160s), 60U);
}

}  // namespace
}  // namespace quire::testing
