// A store file over an io engine, so that every request has a deadline: a disk that hangs costs the wait for
// one deadline, and then answers with kDeadline at once until it has let go of what it was asked for.
//
// Bytes pass through two buffers of this file's own, a piece in each on its way while the other is copied: a
// request that comes too late touches these alone, never the caller's memory. Memory: fixed when it is
// opened, charged to the budget. Closing waits for late requests, as the system may still use the buffers.
// Thread safety: one thread at a time, any thread; so the engine must not be bound to one (ThreadEngine is
// not).
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "kvcache/budget.h"
#include "offload/io_engine.h"
#include "offload/named_file.h"
#include "offload/store_file.h"

namespace quire {

struct StoreFileOptions {
  Nanoseconds deadline = std::chrono::seconds(30);  // of each request
  uint64_t largest_transfer = 0;  // bytes; buffers are as large as this, at most kPieceBytes
  IoEngineFactory factory;        // empty: threads
};

class TimedStoreFile final : public StoreFile {
 public:
  static constexpr uint64_t kPieceBytes = uint64_t{1} << 20;  // of one request
  static constexpr uint32_t kPieces = 2;

  // The clock and the budget outlive the file.
  static Result<std::unique_ptr<StoreFile>> open(std::unique_ptr<NamedFile> file,
                                                 const StoreFileOptions& options, const Clock& clock,
                                                 Budget& budget);

  Status read(uint64_t offset, std::span<uint8_t> bytes) override;
  Status write(uint64_t offset, std::span<const uint8_t> bytes) override;
  Status sync() override;
  Result<uint64_t> size() override { return file_->size(); }
  Status resize(uint64_t bytes) override { return file_->resize(bytes); }
  const std::string& name() const override { return file_->name(); }

 private:
  // A transfer, cut into pieces.
  struct Job {
    IoKind kind = IoKind::kSync;
    uint64_t offset = 0;
    std::span<uint8_t> to;          // of a read
    std::span<const uint8_t> from;  // of a write
    uint64_t next = 0;              // of its bytes, the first that no request has been made for
    Status failure{};
    int os_error = 0;
    uint64_t size() const { return kind == IoKind::kWrite ? from.size() : to.size(); }
  };
  // A buffer and the request that uses it.
  struct Piece {
    std::span<uint8_t> buffer;
    uint64_t tag = 0;   // never used again, so that an answer that comes twice is known
    bool busy = false;  // the job waits for it
    bool late = false;  // failed, and not let go of
    uint64_t at = 0;    // of the job's bytes
    uint64_t bytes = 0;
  };

  TimedStoreFile(std::unique_ptr<NamedFile> file, const StoreFileOptions& options, const Clock& clock)
      : file_(std::move(file)), clock_(clock), deadline_(options.deadline) {}

  Status transfer(Job job);
  Status settle();
  Status start(Job& job, Piece& piece);
  Result<size_t> receive(Job* job, Nanoseconds timeout);
  void finish(Job* job, const Completion& completion);
  Status failed(IoKind kind, StatusCode code, int os_error) const;

  std::unique_ptr<NamedFile> file_;
  const Clock& clock_;
  const Nanoseconds deadline_;
  BudgetedBytes memory_;
  std::array<Piece, kPieces> pieces_;
  uint64_t next_tag_ = 1;
  Status broken_;                     // of the engine, for good
  std::unique_ptr<IoEngine> engine_;  // destroyed first: it may still use the buffers and the file
};

// open_named_file and TimedStoreFile::open.
Result<std::unique_ptr<StoreFile>> open_store_file(const std::string& path, const StoreFileOptions& options,
                                                   const Clock& clock, Budget& budget);

}  // namespace quire
