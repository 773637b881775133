// The io engine for machines that refuse io_uring: a few threads that call pread, pwrite and fdatasync.
//
// Invariants and thread safety: see io_engine.h. Operations start in the order in which they were submitted.
// One whose deadline passes while it waits for a thread is done at once; one that a thread is at work on
// expires and is released when the call returns. The destructor waits for the calls that are under way.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "offload/io_engine.h"
#include "offload/transfer.h"

namespace quire {

// The system calls that the threads make; tests put others in their place. All return what the system call
// returns and set errno.
struct FileCalls {
  std::function<ssize_t(int fd, void* data, size_t bytes, off_t offset)> read;
  std::function<ssize_t(int fd, const void* data, size_t bytes, off_t offset)> write;
  std::function<int(int fd)> sync;
};
FileCalls system_file_calls();

class ThreadEngine final : public IoEngine {
 public:
  static constexpr uint32_t kMaxThreads = 8;

  // min(depth, kMaxThreads) threads. kUnsupported when the system refuses even one.
  static Result<std::unique_ptr<IoEngine>> create(const IoEngineOptions& options, const Clock& clock,
                                                  FileCalls calls = system_file_calls());
  ~ThreadEngine() override;

  Status submit(std::span<const IoOp> ops) override;
  Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) override;
  void wake() override;
  size_t pending() const override;
  std::string_view name() const override { return "threads"; }

 private:
  struct Running {
    IoOp op;
    bool active = false;
    bool expired = false;
  };

  ThreadEngine(const IoEngineOptions& options, const Clock& clock, FileCalls calls);

  bool start_threads(uint32_t count);
  void work(size_t worker);
  Completion run(const IoOp& op) const;
  int64_t call(const Transfer& transfer) const;
  void expire();
  Nanoseconds next_deadline() const;

  const Clock& clock_;
  const FileCalls calls_;
  const std::vector<int> files_;
  mutable std::mutex mutex_;  // guards everything below but threads_
  std::condition_variable work_;
  std::condition_variable progress_;
  std::deque<IoOp> waiting_;
  std::vector<Running> running_;  // [worker]
  std::deque<Completion> ready_;
  size_t pending_ = 0;
  bool woken_ = false;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quire
