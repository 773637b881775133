#include "kvcache/executor.h"

#include <algorithm>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quire {

namespace {

// Some 10 to 50 microseconds: longer than the gap between two calls of one layer, short enough that a
// neighbour on the same core is not held up.
constexpr uint32_t kSpins = 1000;

void relax_core() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

template <typename Predicate>
void spin_until(Predicate done) {
  for (uint32_t i = 0; i < kSpins && !done(); ++i) relax_core();
}

uint32_t threads_or_cores(uint32_t threads) {
  return threads > 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
}

}  // namespace

Executor::~Executor() = default;

struct ThreadPool::Job {
  void (*const fn)(void* arg, uint32_t i);
  void* const arg;
  const uint32_t n;
  std::atomic<uint64_t> next{0};     // wider than n: every thread overshoots by one at the end
  std::atomic<uint32_t> helpers{0};  // workers inside run(); changed under the pool's mutex
  Job* next_job = nullptr;           // guarded by the pool's mutex

  void run() {
    for (;;) {
      const uint64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) return;
      fn(arg, static_cast<uint32_t>(i));
    }
  }
};

ThreadPool::ThreadPool(uint32_t threads) {
  const uint32_t workers = threads_or_cores(threads) - 1;
  workers_.reserve(workers);
  try {
    while (workers_.size() < workers) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // The pool works with the threads it got, and with none.
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  job_opened_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) {
  Job job{.fn = fn, .arg = arg, .n = n};
  if (n <= 1 || workers_.empty()) {
    job.run();
    return;
  }
  open_job(&job);
  job.run();
  close_job(&job);
}

void ThreadPool::open_job(Job* job) {
  uint32_t to_wake = 0;
  {
    const std::lock_guard lock(mutex_);
    job->next_job = open_jobs_.load(std::memory_order_relaxed);
    open_jobs_.store(job, std::memory_order_relaxed);
    to_wake = std::min(sleepers_, job->n - 1);
  }
  for (uint32_t i = 0; i < to_wake; ++i) job_opened_.notify_one();
}

void ThreadPool::close_job(Job* job) {
  std::unique_lock lock(mutex_);
  unlink(job);
  if (job->helpers.load(std::memory_order_relaxed) == 0) return;
  lock.unlock();
  spin_until([job] { return job->helpers.load(std::memory_order_relaxed) == 0; });
  lock.lock();  // also orders the helpers' writes before the return
  helper_left_.wait(lock, [job] { return job->helpers.load(std::memory_order_relaxed) == 0; });
}

void ThreadPool::unlink(Job* job) {
  Job* newer = nullptr;
  Job* at = open_jobs_.load(std::memory_order_relaxed);
  while (at != nullptr && at != job) {
    newer = at;
    at = at->next_job;
  }
  if (at == nullptr) return;
  if (newer != nullptr) {
    newer->next_job = job->next_job;
  } else {
    open_jobs_.store(job->next_job, std::memory_order_relaxed);
  }
}

void ThreadPool::work() {
  const auto something_to_do = [this] {
    return open_jobs_.load(std::memory_order_relaxed) != nullptr || stop_.load(std::memory_order_relaxed);
  };
  for (;;) {
    spin_until(something_to_do);
    std::unique_lock lock(mutex_);
    ++sleepers_;
    job_opened_.wait(lock, something_to_do);
    --sleepers_;
    Job* job = open_jobs_.load(std::memory_order_relaxed);
    if (job == nullptr) return;  // stopped, and nothing left
    help(job, lock);
  }
}

void ThreadPool::help(Job* job, std::unique_lock<std::mutex>& lock) {
  job->helpers.fetch_add(1, std::memory_order_relaxed);
  lock.unlock();
  job->run();
  lock.lock();
  unlink(job);  // nothing is left to take in it
  // The job may be gone as soon as the lock is let go.
  if (job->helpers.fetch_sub(1, std::memory_order_relaxed) == 1) helper_left_.notify_all();
}

CallbackExecutor::CallbackExecutor(ParallelForFunction function, void* context, uint32_t threads)
    : function_(function), context_(context), threads_(threads_or_cores(threads)) {}

void CallbackExecutor::parallel_for(uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg) {
  if (n > 0) function_(context_, n, fn, arg);
}

}  // namespace quire
