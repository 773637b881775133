#include "offload/thread_engine.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "offload/io_wait.h"

namespace quire {

FileCalls system_file_calls() { return {::pread, ::pwrite, ::fdatasync}; }

Result<std::unique_ptr<IoEngine>> ThreadEngine::create(const IoEngineOptions& options, const Clock& clock,
                                                       FileCalls calls) {
  if (Status status = check_options(options); !status.ok()) return status;
  std::unique_ptr<ThreadEngine> engine(new ThreadEngine(options, clock, std::move(calls)));
  if (!engine->start_threads(std::min(options.depth, kMaxThreads))) {
    return Status(StatusCode::kUnsupported,
                  "the system refuses a thread for file I/O; raise the limit on processes");
  }
  engine->set_note(std::to_string(engine->threads_.size()) + " threads");
  return std::unique_ptr<IoEngine>(std::move(engine));
}

ThreadEngine::ThreadEngine(const IoEngineOptions& options, const Clock& clock, FileCalls calls)
    : clock_(clock), calls_(std::move(calls)), files_(options.files) {}

ThreadEngine::~ThreadEngine() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool ThreadEngine::start_threads(uint32_t count) {
  running_.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    try {
      threads_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
      break;  // fewer threads are slower, not wrong
    }
  }
  return !threads_.empty();
}

Status ThreadEngine::submit(std::span<const IoOp> ops) {
  if (Status status = check_ops(ops, files_.size()); !status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    waiting_.insert(waiting_.end(), ops.begin(), ops.end());
    pending_ += ops.size();
  }
  work_.notify_all();
  return {};
}

Result<size_t> ThreadEngine::poll(std::span<Completion> out, Nanoseconds timeout) {
  const auto end = wait_end(timeout);
  std::unique_lock lock(mutex_);
  for (expire(); ready_.empty() && !woken_; expire()) {
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= Nanoseconds::zero()) break;
    progress_.wait_for(lock, std::min<Nanoseconds>(left, time_until(next_deadline(), clock_.now())));
  }
  woken_ = false;
  return take_completions(ready_, out, pending_);
}

void ThreadEngine::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  progress_.notify_all();
}

size_t ThreadEngine::pending() const {
  const std::lock_guard lock(mutex_);
  return pending_;
}

void ThreadEngine::work(size_t worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (stop_) return;
    Running& mine = running_[worker];
    mine = {waiting_.front(), true, false};
    waiting_.pop_front();
    const IoOp op = mine.op;
    lock.unlock();
    const Completion completion = run(op);
    lock.lock();
    ready_.push_back(mine.expired ? released(op) : completion);
    mine.active = false;
    progress_.notify_all();
  }
}

Completion ThreadEngine::run(const IoOp& op) const {
  Transfer transfer{op};
  while (true) {
    if (clock_.now() >= op.deadline) return done(op, StatusCode::kDeadline);
    if (const auto completion = advance(transfer, call(transfer))) return *completion;
  }
}

int64_t ThreadEngine::call(const Transfer& transfer) const {
  const int fd = files_[transfer.op.file];
  const auto rest = transfer.rest();
  const auto offset = static_cast<off_t>(transfer.offset());
  int64_t result = 0;
  switch (transfer.op.kind) {
    case IoKind::kRead:
      result = calls_.read(fd, rest.data(), rest.size(), offset);
      break;
    case IoKind::kWrite:
      result = calls_.write(fd, rest.data(), rest.size(), offset);
      break;
    case IoKind::kSync:
      result = calls_.sync(fd);
      break;
  }
  return result < 0 ? -int64_t{errno} : result;
}

// The mutex is held.
void ThreadEngine::expire() {
  const Nanoseconds now = clock_.now();
  expire_waiting(waiting_, now, ready_);
  for (Running& running : running_) {
    if (!running.active || running.expired || now < running.op.deadline) continue;
    running.expired = true;
    ready_.push_back(expired(running.op));
  }
}

// The mutex is held.
Nanoseconds ThreadEngine::next_deadline() const {
  Nanoseconds next = kNoDeadline;
  for (const IoOp& op : waiting_) next = std::min(next, op.deadline);
  for (const Running& running : running_) {
    if (running.active && !running.expired) next = std::min(next, running.op.deadline);
  }
  return next;
}

}  // namespace quire
