// Slots: frames of a few sizes that share one byte budget.
//
// Slots of one size (a size class) are cut from chunks, regions of equal slots that come straight from the
// operating system and are charged to the budget in whole pages of it. A chunk goes back as soon as its last
// slot is freed, unless empty chunks are kept. Slots are handed out from the chunk that most recently stopped
// being full, so that the emptier ones drain.
//
// Invariants: a slot is 64-byte aligned and a multiple of 64 bytes; bytes_in_use() <= bytes_reserved() = what
// the budget holds for this pool; no allocation fails that would fit: when the budget is short, less than two
// whole chunks, one of a single slot is made. Not charged: about 150 bytes per chunk.
// Cost: O(1), plus O(log chunks) to find the chunk of a slot that is freed; one system call per chunk.
// Thread safety: none, the caller holds a lock; the budget may be shared with other threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <vector>

#include "kvcache/budget.h"

namespace quire {

// Where the chunks of a pool come from when that is not the operating system: memory that the host need not
// reach.
class SlotMemory {
 public:
  virtual ~SlotMemory();
  // bytes: whole pages of the operating system. At least 64-byte aligned; nullptr when there is none. Charged
  // by the pool.
  virtual uint8_t* map(size_t bytes) = 0;
  // Exactly what one map call returned.
  virtual void unmap(uint8_t* data, size_t bytes) = 0;
};

class SlotPool {
 public:
  // chunk_hint: the least size of a chunk when the budget allows it. From 160 KiB on less than 3 % of a chunk
  // is lost to rounding, whatever the slots are.
  // memory: outlives the pool; nullptr is the operating system's.
  SlotPool(Budget& budget, Use use, size_t chunk_hint, SlotMemory* memory = nullptr);
  // Frees every chunk, slots that are still in use included.
  ~SlotPool();
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;

  // bytes: a multiple of 64, > 0. Contents are arbitrary. nullptr when the budget does not allow it.
  [[nodiscard]] uint8_t* allocate(uint32_t bytes);
  // slot: from allocate(bytes) with the same size, once.
  void free(uint8_t* slot, uint32_t bytes);

  // Between these two, chunks that become empty stay, charged, for what is allocated next: to give memory to
  // the operating system and take it again costs more than to fill it.
  void keep_empty_chunks() { keeps_empty_ = true; }
  void drop_empty_chunks();

  // Whether allocate(bytes) would succeed if nobody else touched the budget.
  bool would_fit(uint32_t bytes) const;
  // Whether allocate(bytes) would take nothing more from the budget.
  bool holds_free(uint32_t bytes) const;

  uint64_t bytes_in_use() const { return bytes_in_use_; }
  uint64_t bytes_reserved() const { return bytes_reserved_; }

 private:
  struct Chunk {
    size_t mapped_bytes;
    uint32_t slots;
    uint32_t in_use;
    uint32_t fresh;       // slots [fresh, slots) have never been handed out: their memory is untouched
    uint32_t first_free;  // of the freed slots; each holds the number of the next one in its first bytes
    std::vector<uint32_t> freed;                  // instead of these where the host does not reach them
    std::list<uint8_t*>::iterator place_in_open;  // valid while in_use < slots
  };
  using Chunks = std::map<uint8_t*, Chunk>;  // by first byte
  using OpenChunks = std::list<uint8_t*>;    // of one slot size, by first byte: those with room

  bool add_chunk(uint32_t bytes, OpenChunks& open);
  bool map_chunk(uint32_t bytes, size_t slots, OpenChunks& open);  // at least `slots` of them
  void drop_chunk(Chunks::iterator chunk, OpenChunks& open);

  uint8_t* map_chunk_bytes(size_t bytes) const;
  void unmap_chunk_bytes(uint8_t* data, size_t bytes) const;

  Budget& budget_;
  SlotMemory* const memory_;
  const Use use_;
  const size_t chunk_hint_;
  bool keeps_empty_ = false;
  uint64_t bytes_in_use_ = 0;
  uint64_t bytes_reserved_ = 0;
  Chunks chunks_;
  std::map<uint32_t, OpenChunks> open_chunks_;  // by slot size
};

}  // namespace quire
