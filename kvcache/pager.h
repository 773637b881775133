// The seam to the tiers below memory: brings pages up to be attended, and makes room by moving pages down.
//
// kvcache/ states the contract; offload/ implements it over an io engine. A cache without a disk tier has
// none. Thread safety: every function may be called from any thread, without Residency's lock, except where
// it is passed.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>

#include "kvcache/heads.h"
#include "kvcache/page_table.h"
#include "kvcache/status.h"

namespace quire {

using ResidencyLock = std::unique_lock<std::mutex>;

// Names one load in flight.
struct LoadId {
  uint32_t value = UINT32_MAX;
  bool valid() const { return value != UINT32_MAX; }
};

class Pager {
 public:
  virtual ~Pager() = default;

  // Starts reading pages (at most kRunPages, in position order, none in memory) into staging memory. Pins
  // them. heads: [pages.size()], the kv heads of each page that will be looked at, or empty: all. What else
  // is in the bytes of such a page is undefined, unless the page may stay in memory: it is read whole then.
  // Returns an invalid id when staging memory is too short at the moment.
  virtual LoadId begin_load(ResidencyLock& lock, std::span<Page* const> pages,
                            std::span<const HeadMask> heads) = 0;
  // Waits while the system holds on to staging memory of loads that came too late, until there is enough for
  // any load. kOverBudget when loads that have not ended have it, kDeadline when the system keeps it for
  // long.
  virtual Status wait_staging() = 0;
  // Waits until the load is done. bytes[i] is then page i, what was asked for of it verified against its
  // checksums, or nullptr when it could not be proven right; such a page has no place any more.
  virtual void wait_load(LoadId id, std::span<const uint8_t*> bytes) = 0;
  // True when wait_load would not wait.
  virtual bool load_done(LoadId id) = 0;
  // Unpins the pages and frees the staging memory. The load must be done.
  virtual void end_load(LoadId id) = 0;

  // Starts or continues moving pages down, and waits until something has moved or cannot be moved.
  // kOverBudget when nothing can: every page in memory is pinned, or the disk tier is full.
  virtual Status move_down(ResidencyLock& lock, MemoryTier tier) = 0;
  // Told after every seal, so that pages are copied down before room is needed.
  virtual void sealed(ResidencyLock& lock) = 0;
  // The place will not be read any more.
  virtual void drop(ResidencyLock& lock, const Place& place) = 0;
  // Copies every page without a disk copy down, and waits.
  virtual Status flush() = 0;
};

}  // namespace quire
