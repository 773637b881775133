// The seam to the operating system's files: operations go in as a batch, completions come out.
//
// Invariants: every operation ends exactly once (see completion.h), in full length or with an error; a short
// transfer is resumed inside. Operations run in any order and at the same time: whoever needs an order waits
// for the first one. A sync covers the writes that completed before it was submitted. Deadlines are points of
// the Clock that the engine was opened with. They are judged in poll; waiting itself is in real time. Thread
// safety: an engine belongs to the thread that first calls submit or poll; only that thread may call them.
// wake may be called from any thread. An engine is destroyed by its own thread, or by any thread once
// pending() is 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/clock.h"
#include "kvcache/status.h"
#include "offload/completion.h"

namespace quire {

enum class IoKind : uint8_t { kRead, kWrite, kSync };
inline constexpr size_t kIoKindCount = 3;

inline constexpr Nanoseconds kNoDeadline = Nanoseconds::max();

struct IoOp {
  IoKind kind = IoKind::kRead;
  uint32_t file = 0;    // index into IoEngineOptions::files
  uint64_t offset = 0;  // byte offset in the file; with O_DIRECT a multiple of 4096
  std::span<uint8_t>
      buffer;        // not empty, except for kSync; with O_DIRECT address and size are multiples of 4096
  uint64_t tag = 0;  // comes back in the completion
  Nanoseconds deadline = kNoDeadline;
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;

  // Starts all operations, or none and says why. Buffers must stay valid until their operation has ended.
  virtual Status submit(std::span<const IoOp> ops) = 0;

  // Waits until there is a completion, the timeout has passed or wake was called; returns how many
  // completions it wrote to `out`, 0 included. Fails only when the engine itself is broken.
  virtual Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) = 0;

  // Makes the poll that is waiting, or else the next one, return without waiting.
  virtual void wake() = 0;

  // Operations whose kDone or kReleased poll has not returned yet.
  virtual size_t pending() const = 0;

  // "io_uring" or "threads"; static storage.
  virtual std::string_view name() const = 0;

  // Why this engine was chosen and what it does without, for people.
  const std::string& note() const { return note_; }
  void set_note(std::string note) { note_ = std::move(note); }

 private:
  std::string note_;
};

enum class IoEngineKind : uint8_t { kAuto, kUring, kThreads };

struct IoEngineOptions {
  IoEngineKind kind = IoEngineKind::kAuto;
  uint32_t depth = 16;  // operations that the system works on at the same time, 1 to kMaxIoDepth
  std::vector<int>
      files;  // descriptors, opened and owned by the caller, open for as long as the engine lives
  // Memory that operations will mostly use. A hint: io_uring registers it once instead of at every operation,
  // where the limit on locked memory allows.
  std::vector<std::span<uint8_t>> buffers;
};
inline constexpr uint32_t kMaxIoDepth = 1024;

// The clock outlives the engine.
using IoEngineFactory =
    std::function<Result<std::unique_ptr<IoEngine>>(const IoEngineOptions& options, const Clock& clock)>;

// kInvalid when an option is out of range or an operation names no file or no bytes. For implementations.
Status check_options(const IoEngineOptions& options);
Status check_ops(std::span<const IoOp> ops, size_t file_count);

}  // namespace quire
