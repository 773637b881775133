// Which blocks a store holds: found by id, linked to the block before, ordered by use.
//
// A fixed number of slots, each free or with one block. Invariants: of one id there is one block at most; the
// block before is there as long as its followers are; in order of use it stands before them, so the block
// that was used longest ago has no followers and can go alone. Chains are walked from their first block on,
// each block a use: the walked blocks are then the newest of all. Memory is fixed when it is made. Cost:
// O(1). Thread safety: none, the caller holds a lock.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/prefix.h"

namespace quire {

inline constexpr uint32_t kNoSlot = UINT32_MAX;

class BlockIndex {
 public:
  explicit BlockIndex(uint32_t slots);
  static uint64_t memory_bytes(uint32_t slots);

  uint32_t slots() const { return static_cast<uint32_t>(entries_.size()); }
  uint32_t blocks() const { return blocks_; }

  // kNoSlot when it is not there.
  uint32_t find(const BlockId& id) const;
  uint64_t serial(uint32_t slot) const { return entries_[slot].serial; }
  const BlockId& id(uint32_t slot) const { return entries_[slot].id; }
  // Slot of the block before; kNoSlot of a first block.
  uint32_t before(uint32_t slot) const { return entries_[slot].before; }
  bool used(uint32_t slot) const { return entries_[slot].serial != 0; }

  // A free slot, which is then neither free nor a block; kNoSlot when there is none.
  uint32_t take_free();
  // Gives back what take_free gave.
  void give_back(uint32_t slot);
  // The slot, from take_free, has a block now, used just now. Its id is not there yet; before: a block, or
  // kNoSlot.
  void insert(uint32_t slot, const BlockId& id, uint64_t serial, uint32_t before);
  // A first block becomes the newest, any other the newest behind the block before it.
  void touch(uint32_t slot);
  // The block that was used longest ago; kNoSlot when there is none.
  uint32_t oldest() const { return entries_.empty() ? kNoSlot : last_; }
  // Takes out the block and all that stand behind it, and hands each slot to `freed`, followers first. The
  // slots are neither free nor blocks then.
  void erase(uint32_t slot, std::vector<uint32_t>* freed);

 private:
  struct Entry {
    BlockId id;
    uint64_t serial = 0;  // 0: no block
    uint32_t before = kNoSlot;
    uint32_t first_follower = kNoSlot;
    uint32_t next_follower = kNoSlot;  // of the same block before
    uint32_t previous_follower = kNoSlot;
    uint32_t newer = kNoSlot;
    uint32_t older = kNoSlot;
    uint32_t next_of_bucket = kNoSlot;  // or next free slot
  };
  uint32_t& bucket(const BlockId& id) { return buckets_[id.low & (buckets_.size() - 1)]; }
  void unlink_use(uint32_t slot);
  void link_use(uint32_t slot);
  void remove(uint32_t slot);

  std::vector<Entry> entries_;
  std::vector<uint32_t> buckets_;  // a power of two
  uint32_t free_ = kNoSlot;
  uint32_t first_ = kNoSlot;  // newest
  uint32_t last_ = kNoSlot;   // oldest
  uint32_t blocks_ = 0;
};

}  // namespace quire
