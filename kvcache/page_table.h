// Page records and the page tables of sequences: what is known about every sealed page, wherever its bytes
// lie.
//
// A Page is shared by the sequences that forked from one another and counted by `refs`. Its places are a set:
// a slot in device memory, a slot in host memory, a place on disk; it is lost when the set is empty.
// `entries` are the checksums that bytes read back must match. Thread safety: everything here is guarded by
// Residency's lock, except `entries`, `layer`, `index` and `bytes`, which do not change while the page is in
// a table, and `digests`, which only the compute stream touches. They stay when the page's bytes are lost.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/eviction.h"
#include "kvcache/place.h"
#include "quant/page.h"

namespace quire {

enum class MemoryTier : uint8_t { kDevice = 0, kHost = 1 };
inline constexpr std::array<MemoryTier, 2> kMemoryTiers{MemoryTier::kDevice, MemoryTier::kHost};

struct Page {
  std::array<uint8_t*, 2> slot{};   // by MemoryTier
  Place place;                      // meaningful when on_disk
  SectionEntry* entries = nullptr;  // [kv_heads], behind this record
  uint8_t* digests = nullptr;       // [kv_heads][digest_bytes], behind the entries, or null
  uint64_t stream = 0;              // the table that sealed it: its disk copies lie beside that table's
  uint32_t index = 0;               // page index in its sequences
  uint32_t bytes = 0;
  uint32_t rope_epoch = 0;
  uint32_t refs = 0;
  uint32_t pins = 0;  // readers and writers of its bytes; places are kept while there are any
  uint16_t layer = 0;
  bool on_disk = false;
  bool writing = false;  // a write to disk is under way

  uint8_t* memory() const { return slot[0] != nullptr ? slot[0] : slot[1]; }
  bool lost() const { return memory() == nullptr && !on_disk; }
};

// What an eviction policy keeps of a page lies in front of its record, where there is a policy
// (Residency::record_bytes).
static_assert(sizeof(EvictionNode) % alignof(Page) == 0);
inline EvictionNode* node_of(Page* page) { return reinterpret_cast<EvictionNode*>(page) - 1; }
inline const EvictionNode& node_of(const Page& page) {
  return reinterpret_cast<const EvictionNode*>(&page)[-1];
}
inline Page* page_of(EvictionNode* node) {
  return node == nullptr ? nullptr : reinterpret_cast<Page*>(node + 1);
}
inline const Page& page_of(const EvictionNode& node) { return *reinterpret_cast<const Page*>(&node + 1); }

// The sealed pages of one (sequence, layer), in position order.
struct PageTable {
  uint64_t id = 0;
  uint64_t last_used = 0;  // number of the last step that touched the sequence
  uint32_t layer = 0;
  uint32_t memory_end = 0;  // no page at or beyond this index is in memory
  std::vector<Page*> pages;
};

}  // namespace quire
