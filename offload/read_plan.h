// Cuts a row of places into few large reads. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/place.h"
#include "offload/tier.h"

namespace quire {

// One read: places [first, first + count) of the row lie in bytes [offset, offset + bytes) of the file.
struct ReadRun {
  size_t first = 0;
  size_t count = 0;
  uint64_t offset = 0;  // a multiple of kRunAlign
  uint64_t bytes = 0;   // a positive multiple of kRunAlign
  bool operator==(const ReadRun&) const = default;
};

// Groups neighbours of the row that follow each other in one extent with less than `gap` (at least kRunAlign)
// between them into reads of at most max_bytes. A place that is larger than max_bytes alone gets a read of
// its own.
std::vector<ReadRun> plan_runs(std::span<const Place> places, uint64_t max_bytes, uint64_t gap = kRunAlign);

}  // namespace quire
