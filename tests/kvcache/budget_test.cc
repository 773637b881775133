#include "kvcache/budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "kvcache/os_memory.h"

namespace quire {
namespace {

TEST(Budget, RefusesWhatDoesNotFitAndReservesNothingThen) {
  Budget budget(100);
  EXPECT_TRUE(budget.try_reserve(Use::kPages, 60));
  EXPECT_FALSE(budget.try_reserve(Use::kTails, 41));
  EXPECT_EQ(budget.used(), 60U);
  EXPECT_EQ(budget.used(Use::kTails), 0U);
  EXPECT_TRUE(budget.try_reserve(Use::kTails, 40));
  EXPECT_EQ(budget.available(), 0U);
  EXPECT_FALSE(budget.try_reserve(Use::kWork, 1));
  EXPECT_TRUE(budget.try_reserve(Use::kWork, 0));
}

TEST(Budget, HugeRequestsDoNotWrapAround) {
  Budget budget(UINT64_MAX);
  EXPECT_TRUE(budget.try_reserve(Use::kPages, 10));
  EXPECT_FALSE(budget.try_reserve(Use::kPages, UINT64_MAX));
  EXPECT_FALSE(budget.try_reserve(Use::kPages, UINT64_MAX - 9));
  EXPECT_TRUE(budget.try_reserve(Use::kPages, UINT64_MAX - 10));
}

TEST(Budget, RemembersThePeak) {
  Budget budget(100);
  ASSERT_TRUE(budget.try_reserve(Use::kPages, 70));
  budget.release(Use::kPages, 30);
  ASSERT_TRUE(budget.try_reserve(Use::kTails, 20));
  EXPECT_EQ(budget.used(), 60U);
  EXPECT_EQ(budget.used(Use::kPages), 40U);
  EXPECT_EQ(budget.peak(), 70U);
}

TEST(Budget, RefusalNamesUseAmountAndLimit) {
  Budget budget(1000);
  ASSERT_TRUE(budget.try_reserve(Use::kPages, 900));
  const Status status = budget.refusal(Use::kStaging, 4096);
  EXPECT_EQ(status.code(), StatusCode::kOverBudget);
  for (const char* part : {"staging", "4096", "1000", "900"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << part << " in: " << status.message();
  }
}

TEST(Budget, StaysWithinItsLimitUnderThreads) {
  constexpr uint64_t kLimit = 1000;
  constexpr int kThreads = 4;
  constexpr int kRounds = 20000;
  Budget budget(kLimit);
  std::atomic<uint64_t> held{
      0};  // raised after a reservation, lowered before its release: never above used()
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      std::vector<std::pair<Use, uint64_t>> mine;
      for (int i = 0; i < kRounds; ++i) {
        if (mine.size() < 8 && random() % 2 == 0) {
          const auto use = static_cast<Use>(random() % kUseCount);
          const uint64_t bytes = random() % 200;
          if (!budget.try_reserve(use, bytes)) continue;
          mine.emplace_back(use, bytes);
          if (held.fetch_add(bytes) + bytes > kLimit || budget.used() > kLimit) over = true;
        } else if (!mine.empty()) {
          const auto [use, bytes] = mine.back();
          mine.pop_back();
          held.fetch_sub(bytes);
          budget.release(use, bytes);
        }
      }
      for (const auto& [use, bytes] : mine) {
        held.fetch_sub(bytes);
        budget.release(use, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(over);
  EXPECT_EQ(budget.used(), 0U);
  for (size_t use = 0; use < kUseCount; ++use) EXPECT_EQ(budget.used(static_cast<Use>(use)), 0U);
  EXPECT_GT(budget.peak(), 0U);
  EXPECT_LE(budget.peak(), kLimit);
}

TEST(BudgetedBytes, ChargesWholePagesOfTheSystemAndGivesThemBack) {
  const size_t page = os_page_bytes();
  Budget budget(4 * page);
  {
    Result<BudgetedBytes> bytes = BudgetedBytes::allocate(budget, Use::kTails, page + 1);
    ASSERT_TRUE(bytes.ok()) << bytes.status().message();
    EXPECT_EQ(bytes->size(), page + 1);
    EXPECT_EQ(bytes->charged(), 2 * page);
    EXPECT_EQ(budget.used(Use::kTails), 2 * page);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes->data()) % page, 0U);
    EXPECT_TRUE(std::all_of(bytes->data(), bytes->data() + bytes->size(), [](uint8_t b) { return b == 0; }));
    bytes->data()[page] = 1;
  }
  EXPECT_EQ(budget.used(), 0U);
}

TEST(BudgetedBytes, RefusalChargesNothing) {
  const size_t page = os_page_bytes();
  Budget budget(page);
  EXPECT_EQ(BudgetedBytes::allocate(budget, Use::kWork, page + 1).status().code(), StatusCode::kOverBudget);
  EXPECT_EQ(BudgetedBytes::allocate(budget, Use::kWork, SIZE_MAX).status().code(), StatusCode::kOverBudget);
  EXPECT_EQ(budget.used(), 0U);
}

TEST(BudgetedBytes, ReportsWhatTheSystemRefuses) {
  Budget budget(UINT64_MAX);
  const Result<BudgetedBytes> bytes = BudgetedBytes::allocate(budget, Use::kWork, size_t{1} << 60);
  EXPECT_EQ(bytes.status().code(), StatusCode::kOverBudget);
  EXPECT_EQ(budget.used(), 0U);
}

TEST(BudgetedBytes, EmptyOnesCostNothing) {
  Budget budget(0);
  const Result<BudgetedBytes> bytes = BudgetedBytes::allocate(budget, Use::kWork, 0);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(bytes->data(), nullptr);
  EXPECT_EQ(bytes->charged(), 0U);
}

TEST(BudgetedBytes, MovingKeepsOneCharge) {
  const size_t page = os_page_bytes();
  Budget budget(8 * page);
  BudgetedBytes first = std::move(*BudgetedBytes::allocate(budget, Use::kWork, page));
  uint8_t* const data = first.data();
  BudgetedBytes second = std::move(*BudgetedBytes::allocate(budget, Use::kTails, 2 * page));
  second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(budget.used(Use::kTails), 0U);
  EXPECT_EQ(budget.used(Use::kWork), page);
  const BudgetedBytes third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(budget.used(), page);
}

}  // namespace
}  // namespace quire
