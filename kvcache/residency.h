// Which pages exist and where they are: page records, page tables, slots, and one lock over all of it.
//
// Functions that need the lock take it as a token, so that it cannot be forgotten. It is held for bookkeeping
// only: encoding, attention and I/O work on pinned pages without it. A pin, taken once per run of pages,
// keeps a page's bytes where they are; a page whose last sequence goes away while it is pinned is freed by
// the last unpin. Invariants: memory of slots, frames, records and tables never exceeds the budgets; a page's
// bytes never change.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kvcache/access_trace.h"
#include "kvcache/budget.h"
#include "kvcache/eviction.h"
#include "kvcache/page_table.h"
#include "kvcache/pager.h"
#include "kvcache/policy.h"
#include "kvcache/pool.h"
#include "kvcache/status.h"

namespace quire {

class PageDevice;

// Newest pages per table that a choice looks at: a bound on the time under the lock.
inline constexpr uint32_t kChoiceWindow = 128;
// Page records come in blocks of at least this size; a page table starts with room for this many pages.
inline constexpr size_t kRecordBlockBytes = size_t{64} << 10;
inline constexpr size_t kFirstTablePages = 64;

// Pages that a step attended: those of `pages` whose bits are set in `wanted`.
struct PageUse {
  std::span<Page* const> pages;  // at most 16
  uint32_t wanted;
  uint32_t guarded;             // bit i: a sink, or in the window that is always attended
  std::span<const float> mass;  // of the wanted pages in order: their attention, summed over queries and
                                // heads; empty: all the same
  uint64_t step;
  uint64_t tokens;  // of the sequence in this step
};

struct ResidencyCounts {
  uint64_t pages = 0;  // sealed and not lost
  uint64_t page_bytes = 0;
  std::array<uint64_t, 2> memory_pages{};  // by MemoryTier
  std::array<uint64_t, 2> memory_bytes{};
  uint64_t host_only_pages = 0;  // in host memory without a copy on disk
  uint64_t disk_pages = 0;
  uint64_t disk_bytes = 0;
  uint64_t lost_pages = 0;  // ever
};

class Residency {
 public:
  // device_budget may be null: pages are then sealed into host memory. Both outlive this.
  // digest_bytes: kept beside every page record, of one kv head; 0: no digests. device: where slots of
  // MemoryTier::kDevice lie, out of the host's reach; nullptr: they are host memory.
  Residency(Budget* device_budget, Budget& host_budget, uint32_t kv_heads, size_t digest_bytes = 0,
            PageDevice* device = nullptr);
  ~Residency();
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;

  ResidencyLock lock() { return ResidencyLock(mutex_); }
  // pager may be null; it outlives every other call.
  void set_pager(Pager* pager) { pager_ = pager; }
  Pager* pager() const { return pager_; }
  PageDevice* device() const { return device_; }
  uint32_t kv_heads() const { return kv_heads_; }
  bool has_digests() const { return digest_bytes_ > 0; }
  size_t digest_bytes() const { return digest_bytes_; }
  // Page records are allocated in blocks of this size.
  size_t record_block_bytes() const;

  // ---- tables ----
  PageTable* new_table(ResidencyLock& lock, uint32_t layer);
  void free_table(ResidencyLock& lock, PageTable* table);
  // Drops the pages at index >= count.
  void truncate_table(ResidencyLock& lock, PageTable* table, uint32_t count);
  // to (empty) shares all pages of from.
  Status share_table(ResidencyLock& lock, const PageTable& from, PageTable* to);
  // Appends a page that another table of the same layer has at this index.
  Status share_page(ResidencyLock& lock, Page* page, PageTable* to);

  // ---- sealing ----
  MemoryTier seal_tier() const { return pools_[0] ? MemoryTier::kDevice : MemoryTier::kHost; }
  // A slot in seal_tier(), making room if it must. May release and take the lock again.
  Result<uint8_t*> new_slot(ResidencyLock& lock, uint32_t bytes);
  void free_slot(ResidencyLock& lock, MemoryTier tier, uint8_t* slot, uint32_t bytes);
  // Takes the memory that publishing or replacing `count` more pages needs, `end` being the table's length
  // then. Before the slots of these pages: once they are taken, what is left may be too little for either.
  Status reserve(ResidencyLock& lock, PageTable* table, size_t end, size_t count);
  // Appends a page that owns `slot` (of seal_tier()) to the table.
  Status publish(ResidencyLock& lock, PageTable* table, uint8_t* slot, uint32_t bytes, uint32_t rope_epoch,
                 std::span<const SectionEntry> entries);
  // Gives a lost page its bytes again, in every table that has it.
  void restore(ResidencyLock& lock, Page* page, uint8_t* slot, uint32_t rope_epoch,
               std::span<const SectionEntry> entries);
  // Puts another page at an index of this table only.
  Status replace(ResidencyLock& lock, PageTable* table, uint32_t index, uint8_t* slot, uint32_t bytes,
                 uint32_t rope_epoch, std::span<const SectionEntry> entries);

  // Host memory of the caller's, making room if it must. May release and take the lock again.
  Result<BudgetedBytes> new_bytes(ResidencyLock& lock, Use use, size_t bytes, const char* what);

  // ---- frames: unfolded pages, in host memory ----
  Result<float*> new_frame(ResidencyLock& lock, uint32_t bytes);
  void free_frame(ResidencyLock& lock, float* frame, uint32_t bytes);
  // Between these two, frames that are freed stay here, charged, for those that are taken next.
  void keep_freed_frames(ResidencyLock& lock);
  void drop_freed_frames(ResidencyLock& lock);

  // ---- pins and places ----
  void pin(ResidencyLock&, Page* page) { ++page->pins; }
  void unpin(ResidencyLock& lock, Page* page);
  // A slot in a given tier without making room; nullptr when there is none.
  uint8_t* try_slot(ResidencyLock& lock, MemoryTier tier, uint32_t bytes);
  // A host slot between others that are in use, which takes nothing from the budget; or nullptr.
  uint8_t* try_held_slot(ResidencyLock& lock, uint32_t bytes);
  // slot: of this tier, from new_slot or try_slot; the page owns it from here on.
  void set_slot(ResidencyLock& lock, Page* page, MemoryTier tier, uint8_t* slot);
  void drop_slot(ResidencyLock& lock, Page* page, MemoryTier tier);
  void set_place(ResidencyLock& lock, Page* page, const Place& place);
  // Forgets the disk copy; the page is lost when that was its last place.
  void drop_place(ResidencyLock& lock, Page* page);

  // The pages of `tier` that leave it first: of the device, and of the host where the newest go first, among
  // the newest `window` in memory of each table (UINT32_MAX: for a flush); else by the policy, which looks at
  // `looks` pages. The span is good until the lock is released.
  std::span<Page* const> choose(ResidencyLock& lock, MemoryTier tier, PageState wanted, uint32_t max_pages,
                                uint32_t window = kChoiceWindow, uint32_t looks = UINT32_MAX);
  bool has_room(ResidencyLock& lock, MemoryTier tier, uint32_t bytes) const;

  // ---- eviction from host memory ----
  // Before any page. kAuto counts as newest first.
  void set_eviction(Eviction kind);
  // False where the newest pages go first.
  bool evicts_by_policy() const { return eviction_.active(); }
  // May be null; outlives this.
  void set_access_trace(AccessTrace* trace) { access_trace_ = trace; }
  // Whether `used` has an effect.
  bool watches_use() const { return eviction_.active() || access_trace_ != nullptr; }
  void used(ResidencyLock& lock, const PageUse& use);
  // Whether exchange_slot would give one now, to a page that was read.
  bool worth_a_slot(ResidencyLock& lock, const Page& page);
  // A host slot for a page that was read, in exchange for one that the policy values less; or nullptr.
  uint8_t* exchange_slot(ResidencyLock& lock, const Page& page);

  const ResidencyCounts& counts(ResidencyLock&) const { return counts_; }

 private:
  struct Counted;
  Result<Page*> new_page(ResidencyLock& lock, const PageTable& table, uint32_t index, uint32_t bytes);
  size_t node_bytes() const { return eviction_.active() ? sizeof(EvictionNode) : 0; }
  size_t record_bytes() const;
  void release(ResidencyLock& lock, Page* page);
  void unref(ResidencyLock& lock, Page* page);
  Status grow(ResidencyLock& lock, PageTable* table, size_t pages);
  Status make_room(ResidencyLock& lock, MemoryTier tier, uint32_t bytes, const char* what);
  Status add_records(ResidencyLock& lock);
  PageState state_of(const Page& page, MemoryTier tier) const;
  std::span<Page* const> choose_by_policy(PageState wanted, uint32_t max_pages, uint32_t looks);
  Page* clean_victim();
  Page* victim_for(const Page& page);
  void record_pages(const PageUse& use);

  std::mutex mutex_;
  Budget& host_budget_;
  uint32_t kv_heads_;
  size_t digest_bytes_;
  PageDevice* device_;
  Pager* pager_ = nullptr;
  std::array<std::unique_ptr<SlotPool>, 2> pools_;  // by MemoryTier
  SlotPool frames_;
  std::vector<std::unique_ptr<PageTable>> tables_;
  std::vector<BudgetedBytes> record_blocks_;
  std::vector<Page*> free_records_;
  std::vector<PageState> states_;  // of the last choose
  std::vector<TableSnapshot> snapshots_;
  uint64_t next_table_ = 1;
  EvictionQueues eviction_;
  AccessTrace* access_trace_ = nullptr;
  Page* chosen_ = nullptr;  // of the last choose_by_policy
  ResidencyCounts counts_;
};

}  // namespace quire
