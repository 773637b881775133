// What the io engines share about waiting: deadlines that pass, and completions on their way to the caller.
// Thread safety: pure functions on the caller's queues.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>

#include "offload/io_engine.h"
#include "offload/transfer.h"

namespace quire {

// No wait in the kernel is longer, so that sums of times cannot overflow; whoever waits looks again.
inline constexpr Nanoseconds kLongestWait = std::chrono::hours(1);

inline std::chrono::steady_clock::time_point wait_end(Nanoseconds timeout) {
  constexpr Nanoseconds kLongestTimeout = std::chrono::hours(24 * 365);
  return std::chrono::steady_clock::now() + std::clamp(timeout, Nanoseconds::zero(), kLongestTimeout);
}

// From now to the deadline, in [0, kLongestWait].
inline Nanoseconds time_until(Nanoseconds deadline, Nanoseconds now) {
  if (deadline <= now) return Nanoseconds::zero();
  // Clocks count up from zero or more, so this cannot overflow even for kNoDeadline.
  return std::min(deadline - now, kLongestWait);
}

inline Completion expired(const IoOp& op) {
  return {op.tag, CompletionEvent::kExpired, StatusCode::kDeadline, 0};
}

inline Completion released(const IoOp& op) {
  return {op.tag, CompletionEvent::kReleased, StatusCode::kDeadline, 0};
}

// Moves operations that nothing has started yet, and whose deadline has passed, from `waiting` to `ready`.
inline void expire_waiting(std::deque<IoOp>& waiting, Nanoseconds now, std::deque<Completion>& ready) {
  std::erase_if(waiting, [&](const IoOp& op) {
    if (now < op.deadline) return false;
    ready.push_back(done(op, StatusCode::kDeadline));
    return true;
  });
}

// Moves what fits from `ready` to `out`; `pending` counts down by the operations that are over.
inline size_t take_completions(std::deque<Completion>& ready, std::span<Completion> out, size_t& pending) {
  const size_t count = std::min(ready.size(), out.size());
  for (size_t i = 0; i < count; ++i) {
    out[i] = ready.front();
    ready.pop_front();
    if (out[i].event != CompletionEvent::kExpired) --pending;
  }
  return count;
}

}  // namespace quire
