// Host memory that a GPU reads at the speed of the link: chunks for slots, pinned before they are asked for.
//
//     map:    a spare of that size, or the one being pinned; where there is neither, pinned then and there
//     thread: pins the next ones of a size when few spares of it are left
//     unmap:  a spare again; where there are enough, back to the system
//
// To pin is to have the driver find and lock every page of the system's, and it may wait for the device; so
// does giving back. A seal or a load would wait for both. Nothing is pinned when a cache is opened, and a
// chunk stays pinned from then on, as a slot's or as a spare. Where spares are enough it must go back all the
// same: host_budget is one number, and what pages leave may be a frame's or a table's next. Without a spare a
// caller waits as long as one chunk takes; memory that is not pinned would be there at once, and would keep
// the pages in it from ever being carried.
//
// Invariants: spares, with those being pinned, are at most kSpareBytes, which the budget is charged from
// prepare on; chunks are charged by their pool. Where the system pins no more, the thread ends, map gives
// memory as ever, and all_pinned() is false for good. Thread safety: map, unmap, pin and unpin from any
// thread that the caller orders; all_pinned from any.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "kvcache/charge.h"
#include "kvcache/pool.h"

namespace quire {

class PinnedMemory final : public SlotMemory {
 public:
  static constexpr size_t kSpareBytes = size_t{4} << 20;
  static constexpr uint64_t kSpareShare = 64;
  static constexpr uint32_t kAhead = 4;  // spares of a size that are pinned ahead

  explicit PinnedMemory(int device_index) : index_(device_index) {}
  ~PinnedMemory() override;

  // There are spares from here on, unless they would be more than a kSpareShare-th of the budget. At most
  // once; the budget outlives this.
  void prepare(Budget& host_budget);

  uint8_t* map(size_t bytes) override;
  void unmap(uint8_t* data, size_t bytes) override;
  // Of memory that is somebody else's.
  void pin(std::span<uint8_t> memory);
  void unpin(std::span<uint8_t> memory);
  // All that there ever was.
  bool all_pinned() const { return !refused_; }

 private:
  uint8_t* pin_new(size_t bytes) const;  // nullptr when that is refused
  uint8_t* take_spare(size_t bytes);
  bool keep_spare(std::span<uint8_t> chunk);
  void order(size_t bytes);
  void work_off_orders();

  const int index_;
  std::atomic<bool> refused_{false};
  std::set<uint8_t*> plain_;  // what map gave and is not pinned

  Charge charge_;
  std::mutex mutex_;                 // of what follows; no call to the driver by the thread is under it
  std::condition_variable changed_;  // orders or spares
  std::vector<std::span<uint8_t>> spares_;  // the oldest first
  std::deque<size_t> orders_;               // bytes; the first is being pinned
  size_t held_ = 0;                         // bytes of both
  size_t limit_ = 0;                        // of held_
  bool ended_ = false;                      // nothing is pinned ahead any more
  std::thread thread_;
};

}  // namespace quire
