// A fixed set of threads that run loops. The caller takes part, so ThreadPool(1) starts no thread.
//
// Tasks must not throw. Which thread runs a task is not defined; a task's result must not depend on it.
// Thread safety: parallel_for may be called from anywhere, also from inside a task; a call that finds the
// pool busy runs its loop alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quire::qwen3 {

class ThreadPool {
 public:
  using Task = std::function<void(uint32_t)>;

  explicit ThreadPool(uint32_t threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Runs task(i) for every i in [0, count) and returns when all have returned.
  void parallel_for(uint32_t count, const Task& task);

 private:
  void work();
  void run_tasks(const Task& task, uint32_t count);

  std::vector<std::thread> workers_;
  std::mutex in_use_;  // held by the call that owns the workers

  std::mutex mutex_;  // guards everything below but next_
  std::condition_variable wake_;
  std::condition_variable idle_;
  const Task* task_ = nullptr;
  uint32_t count_ = 0;
  uint32_t running_ = 0;  // workers inside the current loop
  uint64_t loop_ = 0;
  bool stop_ = false;
  std::atomic<uint32_t> next_{0};
};

// The number of processors this process may use, at least 1.
uint32_t default_threads();

}  // namespace quire::qwen3
