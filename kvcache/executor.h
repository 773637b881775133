// Executor: where compute gets its threads. The engine may supply them; ThreadPool is the default.
//
// Contract of every executor: parallel_for runs fn(arg, i) once for each i in [0, n), on any threads and in
// any order, the calling thread perhaps among them, and returns when all have returned; what they wrote is
// then visible to the caller. It may be called from any thread, from several at a time and from inside fn.
// fn must not throw. Results must not depend on which thread runs what.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace quire {

class Executor {
 public:
  virtual ~Executor();
  virtual void parallel_for(uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) = 0;
  // How many items run at the same time at most, the caller counted; >= 1. A hint for cutting work.
  virtual uint32_t threads() const = 0;
};

// callable(uint32_t i); no allocation.
template <typename Callable>
void parallel_for(Executor& executor, uint32_t n, Callable&& callable) {
  using Function = std::remove_reference_t<Callable>;
  const auto run = [](void* function, uint32_t i) { (*static_cast<Function*>(function))(i); };
  // const_cast: a const callable comes back as const inside `run`.
  executor.parallel_for(n, run, const_cast<void*>(static_cast<const void*>(std::addressof(callable))));
}

// threads - 1 workers, and every caller works on its own call. Items are taken one by one, so a thread that
// loses its core delays at most its own item. An idle worker spins for some microseconds, then sleeps.
// Calls from several threads and nested calls share the workers and never wait for each other's items.
class ThreadPool final : public Executor {
 public:
  // threads: 0 means one per core. 1 runs everything inline. Where the system refuses a thread, the pool has
  // fewer: threads() tells.
  explicit ThreadPool(uint32_t threads);
  // No call may be running.
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void parallel_for(uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) override;
  uint32_t threads() const override { return static_cast<uint32_t>(workers_.size()) + 1; }

 private:
  struct Job;  // one parallel_for call, on its caller's stack

  void work();
  void help(Job* job, std::unique_lock<std::mutex>& lock);
  void open_job(Job* job);
  void close_job(Job* job);  // returns when no worker is in it any more
  void unlink(Job* job);     // no worker joins it afterwards; the mutex is held

  std::mutex mutex_;
  std::condition_variable job_opened_;
  std::condition_variable helper_left_;
  // Newest first. Changed under mutex_; spinning workers look at the head without it.
  std::atomic<Job*> open_jobs_{nullptr};
  uint32_t sleepers_ = 0;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// The engine's threads, by the C API's function type.
using ParallelForFunction = void (*)(void* context, uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg);

class CallbackExecutor final : public Executor {
 public:
  // function: not null, keeps the contract above. threads: what threads() answers; 0 means one per core.
  CallbackExecutor(ParallelForFunction function, void* context, uint32_t threads);

  void parallel_for(uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) override;
  uint32_t threads() const override { return threads_; }

 private:
  const ParallelForFunction function_;
  void* const context_;
  const uint32_t threads_;
};

}  // namespace quire
