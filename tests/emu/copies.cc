#include "tests/emu/copies.h"

#include <algorithm>
#include <cstring>

#include "tests/emu/block.h"
#include "tests/emu/sanitizer.h"

namespace emu {
namespace {

CopyBarrierState& find(const void* barrier) {
  CopyBarriers& all = running_block()->copy_barriers();
  const auto end = all.barriers.begin() + static_cast<ptrdiff_t>(all.count);
  const auto found =
      std::find_if(all.barriers.begin(), end, [&](const CopyBarrierState& b) { return b.at == barrier; });
  if (found == end) fail("mbarrier: it was not initialized");
  return *found;
}

// The copies land, and the next phase begins.
void end_phase(CopyBarrierState& barrier) {
  sanitizer::acquire(const_cast<void*>(barrier.at));
  for (size_t i = 0; i < barrier.count; ++i) {
    const BulkCopy& copy = barrier.copies[i];
    std::memcpy(copy.dst, copy.src, copy.bytes);
  }
  sanitizer::release(const_cast<void*>(barrier.at));
  barrier.count = 0;
  barrier.expected = barrier.given = 0;
  barrier.missing = barrier.arrivals;
  ++barrier.phase;
}

// Late: copies land when a thread waits for them, or the next phase needs the barrier.
void after_change(CopyBarrierState& barrier) {
  if (!barrier.complete()) return;
  if (barrier.count > 0 && !running_block()->has_waiting(barrier.at)) return;
  end_phase(barrier);
  running_block()->wake_waiting(barrier.at);
}

}  // namespace

void barrier_init(uint64_t* barrier, unsigned arrivals) {
  if (!is_shared(barrier, sizeof(*barrier))) fail("mbarrier: it is not in shared memory");
  CopyBarriers& all = running_block()->copy_barriers();
  if (all.count == CopyBarriers::kBarriers)
    fail("mbarrier: a block has more than %zu", CopyBarriers::kBarriers);
  CopyBarrierState& state = all.barriers[all.count++];
  state = {};
  state.at = barrier;
  state.arrivals = state.missing = arrivals;
}

void barrier_arrive(uint64_t* barrier, size_t bytes) {
  CopyBarrierState& state = find(barrier);
  if (state.complete()) end_phase(state);
  if (state.missing == 0) fail("mbarrier: more threads arrive in a phase than it counts");
  sanitizer::release(barrier);
  --state.missing;
  state.expected += bytes;
  after_change(state);
}

void bulk_copy(void* dst, const void* src, size_t bytes, uint64_t* barrier) {
  if (bytes % 16 != 0) fail("cp.async.bulk: %zu bytes, which is no multiple of 16", bytes);
  check_aligned(dst, 16, "cp.async.bulk");
  check_aligned(src, 16, "cp.async.bulk");
  if (!is_shared(dst, bytes)) fail("cp.async.bulk: the destination is no shared memory");
  CopyBarrierState& state = find(barrier);
  if (state.count == CopyBarrierState::kCopies)
    fail("cp.async.bulk: a barrier has more than %zu copies under way", CopyBarrierState::kCopies);
  std::memset(dst, 0xFF, bytes);
  sanitizer::release(barrier);
  state.copies[state.count++] = {dst, src, bytes};
  state.given += bytes;
  if (state.given > state.expected)
    fail("cp.async.bulk: %zu bytes in a phase that expects %zu", state.given, state.expected);
  after_change(state);
}

void barrier_await(uint64_t* barrier, unsigned parity, const Site& site) {
  while (true) {
    CopyBarrierState& state = find(barrier);
    if (state.phase % 2 != parity % 2) break;
    if (state.complete()) {
      end_phase(state);
      running_block()->wake_waiting(barrier);
      break;
    }
    running_block()->wait_for(barrier, site);
  }
  sanitizer::acquire(barrier);
}

}  // namespace emu
