// One operation on its way: what is left of it, and what a result of the system means for it. Both engines
// resume short transfers by these rules. Thread safety: values and pure functions.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <optional>

#include "offload/io_engine.h"

namespace quire {

struct Transfer {
  IoOp op;
  uint64_t done = 0;     // bytes of op.buffer that have moved
  uint32_t retries = 0;  // since the last byte moved

  // The system takes no more than 2^31 - 4096 bytes at once.
  static constexpr size_t kMaxRequestBytes = size_t{1} << 30;
  static constexpr uint32_t kMaxRetries = 100;

  uint64_t offset() const { return op.offset + done; }
  std::span<uint8_t> rest() const {
    const auto left = op.buffer.subspan(done);
    return left.first(std::min(left.size(), kMaxRequestBytes));
  }
};

inline Completion done(const IoOp& op, StatusCode code, int os_error = 0) {
  return {op.tag, CompletionEvent::kDone, code, os_error};
}

// result: bytes that moved, 0 for a sync, or -errno. Returns how the operation ended, or nothing when
// offset() and rest() are to be handed to the system again.
inline std::optional<Completion> advance(Transfer& transfer, int64_t result) {
  const IoOp& op = transfer.op;
  if (result == -EINTR || result == -EAGAIN) {
    if (++transfer.retries <= Transfer::kMaxRetries) return std::nullopt;
  }
  if (result < 0) return done(op, StatusCode::kIo, static_cast<int>(-result));
  if (op.kind == IoKind::kSync) return done(op, StatusCode::kOk);
  // Nothing moved: a read has met the end of the file; a write that writes nothing would do so for ever.
  if (result == 0) return done(op, StatusCode::kIo, op.kind == IoKind::kWrite ? EIO : 0);
  transfer.done += static_cast<uint64_t>(result);
  transfer.retries = 0;
  if (transfer.done < op.buffer.size()) return std::nullopt;
  return done(op, StatusCode::kOk);
}

}  // namespace quire
