// The io engine over io_uring: one system call submits and waits, the kernel reads and writes without threads
// of ours.
//
// The ring is made for one thread (SINGLE_ISSUER, DEFER_TASKRUN where the kernel has them): the first submit
// or poll makes the calling thread its owner. Files are registered, buffers too where the limit on locked
// memory allows. At most `depth` operations are in the kernel; others wait here in order of submission. One
// whose deadline passes in the kernel expires, its cancellation is asked for, and it is released when the
// kernel says so. Invariants and thread safety: see io_engine.h. The destructor cancels and waits for what is
// in flight.
#pragma once

#include <liburing.h>

#include <deque>

#include "offload/file_descriptor.h"
#include "offload/io_engine.h"
#include "offload/transfer.h"

namespace quire {

class UringEngine final : public IoEngine {
 public:
  // kUnsupported, with the reason, when the kernel refuses a ring or lacks what the engine needs
  // (Linux 5.11).
  static Result<std::unique_ptr<IoEngine>> create(const IoEngineOptions& options, const Clock& clock);
  ~UringEngine() override;

  Status submit(std::span<const IoOp> ops) override;
  Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) override;
  void wake() override;
  size_t pending() const override { return pending_; }
  std::string_view name() const override { return "io_uring"; }

 private:
  // An operation in the kernel.
  struct Flight {
    Transfer transfer;
    uint64_t request =
        0;  // user data: a serial number above the index, so that a late cancellation hits no other
    bool active = false;
    bool expired = false;
  };

  UringEngine(const IoEngineOptions& options, const Clock& clock);

  Status create_ring();
  Status register_files();
  void register_buffers();
  Status enable();

  void start_waiting();
  void prepare(uint32_t index);
  int registered_index(std::span<const uint8_t> buffer) const;
  void prepare_cancel(uint32_t index);
  void prepare_wake();
  Status enter(Nanoseconds wait);
  void reap();
  void finish(uint32_t index, int result);
  void expire();
  Nanoseconds next_deadline() const;

  const Clock& clock_;
  const uint32_t depth_;
  const std::vector<int> files_;
  std::vector<std::span<uint8_t>> buffers_;  // registered ones only
  FileDescriptor wake_fd_;
  io_uring ring_{};
  bool ring_open_ = false;
  bool enabled_ = false;
  bool woken_ = false;
  std::vector<Flight> flights_;  // [depth_]
  std::vector<uint32_t> free_flights_;
  std::deque<IoOp> waiting_;
  std::deque<Completion> ready_;
  size_t pending_ = 0;
  uint64_t next_serial_ = 0;
};

}  // namespace quire
