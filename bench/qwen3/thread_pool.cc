#include "bench/qwen3/thread_pool.h"

#include <sched.h>

#include <algorithm>

namespace quire::qwen3 {

ThreadPool::ThreadPool(uint32_t threads) {
  for (uint32_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(uint32_t count, const Task& task) {
  const std::unique_lock owner(in_use_, std::try_to_lock);
  if (count <= 1 || workers_.empty() || !owner.owns_lock()) {
    for (uint32_t i = 0; i < count; ++i) task(i);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    count_ = count;
    running_ = static_cast<uint32_t>(workers_.size());
    next_.store(0, std::memory_order_relaxed);
    ++loop_;
  }
  wake_.notify_all();
  run_tasks(task, count);
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return running_ == 0; });
}

void ThreadPool::run_tasks(const Task& task, uint32_t count) {
  for (uint32_t i = next_.fetch_add(1); i < count; i = next_.fetch_add(1)) task(i);
}

void ThreadPool::work() {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stop_ || loop_ != seen; });
    if (stop_) return;
    seen = loop_;
    const Task& task = *task_;
    const uint32_t count = count_;
    lock.unlock();
    run_tasks(task, count);
    lock.lock();
    if (--running_ == 0) idle_.notify_one();
  }
}

uint32_t default_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::max(1u, std::thread::hardware_concurrency());
  return static_cast<uint32_t>(std::max(1, CPU_COUNT(&set)));
}

}  // namespace quire::qwen3
