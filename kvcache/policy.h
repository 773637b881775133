// Which pages leave memory first. Pure functions from a snapshot to a plan.
//
// Exact attention reads every page of a sequence once per step, in the same order: a cyclic scan, for which
// least recently used is the worst choice and any fixed resident set is the best. So sequences go by when
// they were used last, and within one the newest pages go first: what is resident stays resident and hits on
// every step.
#pragma once

#include <cstdint>
#include <span>

namespace quire {

enum class PageState : uint8_t {
  kFixed,  // not in memory, pinned, or being written
  kDirty,  // in memory only
  kClean,  // in memory and with a copy below
};

// The newest pages of one table: states[i] is page first + i.
struct TableSnapshot {
  uint64_t last_used;
  uint32_t first;
  std::span<const PageState> states;
};

struct Victims {
  uint32_t table = 0;  // index into the snapshot
  uint32_t first = 0;  // page index
  uint32_t count = 0;  // 0: there is none
};

// The run of at most max_pages consecutive pages in state `wanted` that leaves first.
Victims choose_victims(std::span<const TableSnapshot> tables, PageState wanted, uint32_t max_pages);

}  // namespace quire
