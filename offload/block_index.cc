#include "offload/block_index.h"

#include <bit>

namespace quire {
namespace {

uint64_t bucket_count(uint32_t slots) { return std::bit_ceil(uint64_t{slots} + 1); }

}  // namespace

uint64_t BlockIndex::memory_bytes(uint32_t slots) {
  return slots * sizeof(Entry) + bucket_count(slots) * sizeof(uint32_t);
}

BlockIndex::BlockIndex(uint32_t slots) : entries_(slots), buckets_(bucket_count(slots), kNoSlot) {
  // The lowest slots go first, so that a store that is not full touches little of its file.
  for (uint32_t slot = slots; slot-- > 0;) give_back(slot);
}

uint32_t BlockIndex::find(const BlockId& id) const {
  uint32_t slot = buckets_[id.low & (buckets_.size() - 1)];
  while (slot != kNoSlot && entries_[slot].id != id) slot = entries_[slot].next_of_bucket;
  return slot;
}

uint32_t BlockIndex::take_free() {
  const uint32_t slot = free_;
  if (slot != kNoSlot) free_ = entries_[slot].next_of_bucket;
  return slot;
}

void BlockIndex::give_back(uint32_t slot) {
  entries_[slot] = {};
  entries_[slot].next_of_bucket = free_;
  free_ = slot;
}

void BlockIndex::unlink_use(uint32_t slot) {
  const Entry& e = entries_[slot];
  (e.newer == kNoSlot ? first_ : entries_[e.newer].older) = e.older;
  (e.older == kNoSlot ? last_ : entries_[e.older].newer) = e.newer;
}

void BlockIndex::link_use(uint32_t slot) {
  Entry& e = entries_[slot];
  e.newer = e.before;
  e.older = e.before == kNoSlot ? first_ : entries_[e.before].older;
  (e.newer == kNoSlot ? first_ : entries_[e.newer].older) = slot;
  (e.older == kNoSlot ? last_ : entries_[e.older].newer) = slot;
}

void BlockIndex::insert(uint32_t slot, const BlockId& id, uint64_t serial, uint32_t before) {
  Entry& e = entries_[slot];
  e = {};
  e.id = id;
  e.serial = serial;
  e.before = before;
  e.next_of_bucket = bucket(id);
  bucket(id) = slot;
  if (before != kNoSlot) {
    e.next_follower = entries_[before].first_follower;
    if (e.next_follower != kNoSlot) entries_[e.next_follower].previous_follower = slot;
    entries_[before].first_follower = slot;
  }
  ++blocks_;
  link_use(slot);
}

void BlockIndex::touch(uint32_t slot) {
  unlink_use(slot);
  link_use(slot);
}

void BlockIndex::remove(uint32_t slot) {
  Entry& e = entries_[slot];
  uint32_t* link = &bucket(e.id);
  while (*link != slot) link = &entries_[*link].next_of_bucket;
  *link = e.next_of_bucket;
  if (e.next_follower != kNoSlot) entries_[e.next_follower].previous_follower = e.previous_follower;
  if (e.previous_follower != kNoSlot) {
    entries_[e.previous_follower].next_follower = e.next_follower;
  } else if (e.before != kNoSlot) {
    entries_[e.before].first_follower = e.next_follower;
  }
  unlink_use(slot);
  e = {};
  --blocks_;
}

void BlockIndex::erase(uint32_t slot, std::vector<uint32_t>* freed) {
  // Down to a block without followers, out with it, and back up.
  uint32_t at = slot;
  for (;;) {
    while (entries_[at].first_follower != kNoSlot) at = entries_[at].first_follower;
    const uint32_t before = entries_[at].before;
    const bool done = at == slot;
    remove(at);
    freed->push_back(at);
    if (done) return;
    at = before;
  }
}

}  // namespace quire
