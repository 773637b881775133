#include "kvcache/executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

namespace quire {
namespace {

// An engine's parallel_for in its crudest form: one thread per odd item, the caller takes the even ones. The
// context counts the calls.
void crude_parallel_for(void* context, uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) {
  static_cast<std::atomic<uint32_t>*>(context)->fetch_add(1);
  std::thread odd([=] {
    for (uint32_t i = 1; i < n; i += 2) fn(arg, i);
  });
  for (uint32_t i = 0; i < n; i += 2) fn(arg, i);
  odd.join();
}

struct Implementation {
  std::string name;
  std::unique_ptr<Executor> (*create)();
};

void PrintTo(const Implementation& implementation, std::ostream* out) { *out << implementation.name; }

std::atomic<uint32_t> callback_calls{0};

const Implementation kImplementations[] = {
    {"Inline", []() -> std::unique_ptr<Executor> { return std::make_unique<ThreadPool>(1); }},
    {"TwoThreads", []() -> std::unique_ptr<Executor> { return std::make_unique<ThreadPool>(2); }},
    {"FiveThreads", []() -> std::unique_ptr<Executor> { return std::make_unique<ThreadPool>(5); }},
    {"Callback",
     []() -> std::unique_ptr<Executor> {
       return std::make_unique<CallbackExecutor>(crude_parallel_for, &callback_calls, 2);
     }},
};

class ExecutorContract : public testing::TestWithParam<Implementation> {
 protected:
  const std::unique_ptr<Executor> executor_ = GetParam().create();
};

TEST_P(ExecutorContract, RunsEveryItemOnce) {
  for (const uint32_t n : {0U, 1U, 2U, 3U, 7U, 64U, 1000U, 30000U}) {
    std::vector<std::atomic<uint32_t>> runs(n);
    parallel_for(*executor_, n, [&](uint32_t i) { runs[i].fetch_add(1, std::memory_order_relaxed); });
    EXPECT_TRUE(std::all_of(runs.begin(), runs.end(), [](const auto& count) { return count == 1; })) << n;
  }
}

// Plain memory, written by whoever ran the item and read by the caller: a data race if the return orders
// nothing.
TEST_P(ExecutorContract, ResultsAreVisibleToTheCaller) {
  constexpr uint32_t kItems = 97;
  std::vector<uint64_t> squares(kItems);
  for (uint64_t round = 0; round < 300; ++round) {
    parallel_for(*executor_, kItems, [&](uint32_t i) { squares[i] = round + uint64_t{i} * i; });
    uint64_t sum = 0;
    for (const uint64_t square : squares) sum += square;
    // Sum of i^2 for i < m is (m - 1) m (2m - 1) / 6.
    ASSERT_EQ(sum, round * kItems + uint64_t{kItems - 1} * kItems * (2 * kItems - 1) / 6);
  }
}

TEST_P(ExecutorContract, CallsMayBeNested) {
  std::atomic<uint32_t> runs{0};
  parallel_for(*executor_, 6, [&](uint32_t) {
    parallel_for(*executor_, 5, [&](uint32_t) {
      parallel_for(*executor_, 4, [&](uint32_t) { runs.fetch_add(1, std::memory_order_relaxed); });
    });
  });
  EXPECT_EQ(runs, 120U);
}

TEST_P(ExecutorContract, TwoThreadsMayCallAtOnce) {
  std::vector<uint64_t> sums(2);
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < sums.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 100; ++round) {
        std::atomic<uint64_t> sum{0};
        parallel_for(*executor_, 50, [&](uint32_t i) { sum.fetch_add(i + 1, std::memory_order_relaxed); });
        sums[caller] += sum;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sums[0], 100U * 1275U);
  EXPECT_EQ(sums[1], 100U * 1275U);
}

TEST_P(ExecutorContract, TakesConstCallables) {
  std::atomic<uint32_t> runs{0};
  const auto count = [&](uint32_t) { runs.fetch_add(1, std::memory_order_relaxed); };
  parallel_for(*executor_, 10, count);
  EXPECT_EQ(runs, 10U);
  EXPECT_GE(executor_->threads(), 1U);
}

INSTANTIATE_TEST_SUITE_P(All, ExecutorContract, testing::ValuesIn(kImplementations),
                         [](const auto& test) { return test.param.name; });

TEST(ThreadPool, RunsAsManyItemsAtATimeAsItHasThreads) {
  ThreadPool pool(4);
  ASSERT_EQ(pool.threads(), 4U);
  for (int round = 0; round < 20; ++round) {
    std::barrier all_four(4);  // nobody returns before four items run at the same time
    parallel_for(pool, 4, [&](uint32_t) { all_four.arrive_and_wait(); });
  }
}

TEST(ThreadPool, ACallDoesNotWaitForTheItemsOfAnother) {
  ThreadPool pool(2);
  // A long call that holds its caller and the worker until the short call of another thread is over.
  std::barrier held(3);
  std::atomic<bool> short_call_over{false};
  std::thread holder([&] {
    parallel_for(pool, 2, [&](uint32_t) {
      held.arrive_and_wait();
      while (!short_call_over) std::this_thread::yield();
    });
  });
  held.arrive_and_wait();
  std::atomic<uint32_t> runs{0};
  parallel_for(pool, 10, [&](uint32_t) { runs.fetch_add(1); });
  short_call_over = true;
  holder.join();
  EXPECT_EQ(runs, 10U);
}

TEST(ThreadPool, OneThreadRunsInlineAndInOrder) {
  ThreadPool pool(1);
  EXPECT_EQ(pool.threads(), 1U);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<uint32_t> order;
  parallel_for(pool, 5, [&](uint32_t i) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    order.push_back(i);
  });
  EXPECT_EQ(order, (std::vector<uint32_t>{0, 1, 2, 3, 4}));
}

TEST(ThreadPool, WakesUpAfterASleepAndStopsWhileIdle) {
  for (int round = 0; round < 20; ++round) {
    ThreadPool pool(3);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than any worker spins
    std::barrier all_three(3);
    parallel_for(pool, 3, [&](uint32_t) { all_three.arrive_and_wait(); });
  }
}

TEST(CallbackExecutor, HandsTheWholeCallToTheEngine) {
  callback_calls = 0;
  CallbackExecutor executor(crude_parallel_for, &callback_calls, 3);
  EXPECT_EQ(executor.threads(), 3U);
  parallel_for(executor, 4, [](uint32_t) {});
  parallel_for(executor, 0, [](uint32_t) { FAIL(); });
  EXPECT_EQ(callback_calls, 1U);
}

}  // namespace
}  // namespace quire
