#include "kvcache/pool.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kvcache/os_memory.h"
#include "quant/page.h"

namespace quire {

namespace {

constexpr uint32_t kNoSlot = UINT32_MAX;

uint32_t load_next_free(const uint8_t* slot) {
  uint32_t next;
  std::memcpy(&next, slot, sizeof next);
  return next;
}

void store_next_free(uint8_t* slot, uint32_t next) { std::memcpy(slot, &next, sizeof next); }

}  // namespace

SlotMemory::~SlotMemory() = default;

SlotPool::SlotPool(Budget& budget, Use use, size_t chunk_hint, SlotMemory* memory)
    : budget_(budget), memory_(memory), use_(use), chunk_hint_(chunk_hint) {}

uint8_t* SlotPool::map_chunk_bytes(size_t bytes) const {
  return memory_ == nullptr ? map_os_pages(bytes) : memory_->map(bytes);
}

void SlotPool::unmap_chunk_bytes(uint8_t* data, size_t bytes) const {
  if (memory_ == nullptr) {
    unmap_os_pages(data, bytes);
  } else {
    memory_->unmap(data, bytes);
  }
}

SlotPool::~SlotPool() {
  for (const auto& [first_byte, chunk] : chunks_) {
    unmap_chunk_bytes(first_byte, chunk.mapped_bytes);
    budget_.release(use_, chunk.mapped_bytes);
  }
}

uint8_t* SlotPool::allocate(uint32_t bytes) {
  assert(bytes > 0 && bytes % kPageAlign == 0);
  OpenChunks& open = open_chunks_[bytes];
  if (open.empty() && !add_chunk(bytes, open)) return nullptr;
  uint8_t* first_byte = open.front();
  Chunk& chunk = chunks_.find(first_byte)->second;
  uint8_t* slot = nullptr;
  if (!chunk.freed.empty()) {
    slot = first_byte + size_t{chunk.freed.back()} * bytes;
    chunk.freed.pop_back();
  } else if (chunk.first_free != kNoSlot) {
    slot = first_byte + size_t{chunk.first_free} * bytes;
    chunk.first_free = load_next_free(slot);
  } else {
    slot = first_byte + size_t{chunk.fresh} * bytes;
    ++chunk.fresh;
  }
  ++chunk.in_use;
  if (chunk.in_use == chunk.slots) open.pop_front();
  bytes_in_use_ += bytes;
  return slot;
}

void SlotPool::free(uint8_t* slot, uint32_t bytes) {
  const auto found = std::prev(chunks_.upper_bound(slot));
  uint8_t* const first_byte = found->first;
  Chunk& chunk = found->second;
  assert(static_cast<size_t>(slot - first_byte) % bytes == 0 && chunk.in_use > 0);
  OpenChunks& open = open_chunks_[bytes];
  if (chunk.in_use == chunk.slots) chunk.place_in_open = open.insert(open.begin(), first_byte);
  --chunk.in_use;
  bytes_in_use_ -= bytes;
  if (chunk.in_use == 0 && !keeps_empty_) {
    drop_chunk(found, open);
    return;
  }
  const auto number = static_cast<uint32_t>(static_cast<size_t>(slot - first_byte) / bytes);
  if (memory_ != nullptr) {
    chunk.freed.push_back(number);
    return;
  }
  store_next_free(slot, chunk.first_free);
  chunk.first_free = number;
}

void SlotPool::drop_empty_chunks() {
  keeps_empty_ = false;
  for (auto& [bytes, open] : open_chunks_) {
    for (auto next = open.begin(); next != open.end();) {
      const auto chunk = chunks_.find(*next++);
      if (chunk->second.in_use == 0) drop_chunk(chunk, open);
    }
  }
}

bool SlotPool::would_fit(uint32_t bytes) const {
  return holds_free(bytes) || round_to_os_pages(bytes) <= budget_.available();
}

bool SlotPool::holds_free(uint32_t bytes) const {
  const auto open = open_chunks_.find(bytes);
  return open != open_chunks_.end() && !open->second.empty();
}

bool SlotPool::add_chunk(uint32_t bytes, OpenChunks& open) {
  const size_t whole = std::clamp<size_t>((chunk_hint_ + bytes - 1) / bytes, 1, kNoSlot);
  // More than one slot out of the last of the budget might be what another use, or another size of slots,
  // needs to go on: a whole chunk leaves as much again.
  const bool roomy = budget_.available() / 2 >= whole * bytes;
  return (roomy && map_chunk(bytes, whole, open)) || map_chunk(bytes, 1, open);
}

bool SlotPool::map_chunk(uint32_t bytes, size_t slots, OpenChunks& open) {
  const size_t mapped_bytes = round_to_os_pages(slots * bytes);
  slots = mapped_bytes / bytes;  // what rounding added may hold some more
  if (!budget_.try_reserve(use_, mapped_bytes)) return false;
  uint8_t* first_byte = map_chunk_bytes(mapped_bytes);
  if (first_byte == nullptr) {
    budget_.release(use_, mapped_bytes);
    return false;
  }
  bytes_reserved_ += mapped_bytes;
  open.push_front(first_byte);
  chunks_.emplace(first_byte, Chunk{.mapped_bytes = mapped_bytes,
                                    .slots = static_cast<uint32_t>(slots),
                                    .in_use = 0,
                                    .fresh = 0,
                                    .first_free = kNoSlot,
                                    .freed = {},
                                    .place_in_open = open.begin()});
  return true;
}

void SlotPool::drop_chunk(Chunks::iterator chunk, OpenChunks& open) {
  uint8_t* const first_byte = chunk->first;
  const Chunk dropped = std::move(chunk->second);
  open.erase(dropped.place_in_open);
  chunks_.erase(chunk);
  unmap_chunk_bytes(first_byte, dropped.mapped_bytes);
  budget_.release(use_, dropped.mapped_bytes);
  bytes_reserved_ -= dropped.mapped_bytes;
}

}  // namespace quire
