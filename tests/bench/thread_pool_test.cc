#include "bench/qwen3/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>

namespace quire::qwen3 {
namespace {

TEST(ThreadPoolTest, EveryTaskRunsOnce) {
  ThreadPool pool(3);
  EXPECT_EQ(pool.threads(), 3u);
  for (const uint32_t count : {0u, 1u, 2u, 1000u}) {
    std::vector<std::atomic<int>> runs(count);
    pool.parallel_for(count, [&](uint32_t i) { ++runs[i]; });
    for (const auto& n : runs) EXPECT_EQ(n, 1);
  }
}

TEST(ThreadPoolTest, LoopsFromSeveralThreadsAndFromInsideTasksFinish) {
  ThreadPool pool(2);
  std::atomic<int> runs{0};
  const auto loop = [&] {
    for (int repeat = 0; repeat < 200; ++repeat) {
      pool.parallel_for(4, [&](uint32_t) { pool.parallel_for(3, [&](uint32_t) { ++runs; }); });
    }
  };
  std::thread other(loop);
  loop();
  other.join();
  EXPECT_EQ(runs, 2 * 200 * 4 * 3);
}

}  // namespace
}  // namespace quire::qwen3
