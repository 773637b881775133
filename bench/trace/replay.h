// Replays recorded accesses against eviction policies at a given size of memory: what would have been read.
//
// The policies are the library's own (kvcache/eviction.h), told the same events; newest first follows
// kvcache/policy.h. The optimum knows the future (Belady's rule, with the right to keep nothing of what was
// read): in the uses that count no policy reads fewer pages, were all of one size. Left out of the model:
// pins, writes that are under way, and reads ahead. Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <optional>

#include "kvcache/access_trace.h"
#include "kvcache/eviction.h"

namespace quire::bench {

struct ReplayCounts {
  uint64_t uses = 0;  // of pages, in decoding: events of one token
  uint64_t hits = 0;
  uint64_t read_bytes = 0;     // by these uses
  uint64_t written_pages = 0;  // in all: pages that left memory and had no copy on disk

  double hit_rate() const { return uses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(uses); }
  bool operator==(const ReplayCounts&) const = default;
};

// Of all pages ever sealed, bytes: the memory that needs no disk.
uint64_t whole_bytes(const AccessLog& log);

// policy: not kAuto; nothing stands for the optimum.
ReplayCounts replay(const AccessLog& log, std::optional<Eviction> policy, uint64_t memory_bytes);

// How well the pages that a sequence's layer chose in one step foretell those of the next, in decoding that
// selects.
struct Foresight {
  uint64_t chosen = 0;
  uint64_t foretold = 0;  // chosen in the step before
  uint64_t both = 0;
  double recall() const { return chosen == 0 ? 0 : static_cast<double>(both) / static_cast<double>(chosen); }
  double precision() const {
    return foretold == 0 ? 0 : static_cast<double>(both) / static_cast<double>(foretold);
  }
};
// Sinks and the window, which always come again, are left out.
Foresight foresee(const AccessLog& log);

}  // namespace quire::bench
