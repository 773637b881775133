// What became of a request that was handed to an io engine or to a tier.
//
// Every request ends in exactly one of two ways:
//   kDone                   It is over, `code` says how, and its buffer belongs to the caller again.
//   kExpired ... kReleased  Its deadline passed while the system was still at work on it. It has failed with
//   kDeadline,
//                           but a late transfer may still touch its buffer: leave the buffer alone until
//                           kReleased. On a disk that hangs for good kReleased never comes.
// Value type.
#pragma once

#include <cstdint>

#include "kvcache/status.h"

namespace quire {

enum class CompletionEvent : uint8_t { kDone, kExpired, kReleased };

struct Completion {
  uint64_t tag = 0;  // as the caller chose it
  CompletionEvent event = CompletionEvent::kDone;
  StatusCode code = StatusCode::kOk;  // kOk, kIo, kDeadline, and from tiers kMiss
  int os_error = 0;                   // errno behind kIo; 0 when the file ended early
  bool operator==(const Completion&) const = default;
};

}  // namespace quire
