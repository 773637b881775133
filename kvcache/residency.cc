#include "kvcache/residency.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "kvcache/page_device.h"

namespace quire {
namespace {

// Chunks of slots: small enough that dropping the newest pages soon empties one, large enough to be rare.
constexpr size_t kChunkBytes = size_t{256} << 10;
// A frame is whole pages of the operating system: in chunks of one nothing is lost to rounding, and no free
// frame is held back from pages that need the room.
constexpr size_t kFrameChunkBytes = 1;

}  // namespace

// Keeps the counts true across a change of one page's places.
struct Residency::Counted {
  Counted(Residency& r, Page* p) : residency(r), page(p) { add(-1); }
  ~Counted() { add(1); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

  void add(int64_t sign) const {
    ResidencyCounts& c = residency.counts_;
    const uint64_t one = static_cast<uint64_t>(sign);
    const uint64_t bytes = one * page->bytes;
    for (MemoryTier tier : kMemoryTiers) {
      const auto i = static_cast<size_t>(tier);
      if (page->slot[i] == nullptr) continue;
      c.memory_pages[i] += one;
      c.memory_bytes[i] += bytes;
    }
    if (page->slot[1] != nullptr && !page->on_disk) c.host_only_pages += one;
    if (page->on_disk) {
      c.disk_pages += one;
      c.disk_bytes += bytes;
    }
    if (!page->lost()) {
      c.pages += one;
      c.page_bytes += bytes;
    }
  }
  Residency& residency;
  Page* page;
};

Residency::Residency(Budget* device_budget, Budget& host_budget, uint32_t kv_heads, size_t digest_bytes,
                     PageDevice* device)
    : host_budget_(host_budget),
      kv_heads_(kv_heads),
      digest_bytes_(digest_bytes),
      device_(device),
      frames_(host_budget, Use::kTails, kFrameChunkBytes) {
  if (device_budget != nullptr) {
    pools_[0] = std::make_unique<SlotPool>(*device_budget, Use::kPages, kChunkBytes, device);
  }
  SlotMemory* host_memory = device == nullptr ? nullptr : &device->host_memory();
  pools_[1] = std::make_unique<SlotPool>(host_budget, Use::kPages, kChunkBytes, host_memory);
}

Residency::~Residency() {
  ResidencyLock held = lock();
  while (!tables_.empty()) free_table(held, tables_.back().get());
}

// ---- tables ----

PageTable* Residency::new_table(ResidencyLock&, uint32_t layer) {
  tables_.push_back(std::make_unique<PageTable>());
  tables_.back()->id = next_table_++;
  tables_.back()->layer = layer;
  return tables_.back().get();
}

void Residency::free_table(ResidencyLock& lock, PageTable* table) {
  truncate_table(lock, table, 0);
  host_budget_.release(Use::kTables, table->pages.capacity() * sizeof(Page*));
  std::erase_if(tables_, [table](const auto& t) { return t.get() == table; });
}

void Residency::truncate_table(ResidencyLock& lock, PageTable* table, uint32_t count) {
  while (table->pages.size() > count) {
    Page* page = table->pages.back();
    table->pages.pop_back();
    unref(lock, page);
  }
  table->memory_end = std::min(table->memory_end, count);
}

Status Residency::share_table(ResidencyLock& lock, const PageTable& from, PageTable* to) {
  if (Status status = grow(lock, to, from.pages.size()); !status.ok()) return status;
  for (Page* page : from.pages) {
    ++page->refs;
    to->pages.push_back(page);
  }
  to->memory_end = from.memory_end;
  to->last_used = from.last_used;
  return {};
}

Status Residency::share_page(ResidencyLock& lock, Page* page, PageTable* to) {
  if (Status status = grow(lock, to, to->pages.size() + 1); !status.ok()) return status;
  ++page->refs;
  to->pages.push_back(page);
  if (page->memory() != nullptr) to->memory_end = page->index + 1;
  return {};
}

Status Residency::grow(ResidencyLock& lock, PageTable* table, size_t pages) {
  const size_t capacity = table->pages.capacity();
  if (pages <= capacity) return {};
  const size_t wanted = std::max({pages, kFirstTablePages, capacity + capacity / 2});
  const size_t bytes = (wanted - capacity) * sizeof(Page*);
  while (!host_budget_.try_reserve(Use::kTables, bytes)) {
    const Status status = make_room(lock, MemoryTier::kHost, 0, "a page table");
    if (!status.ok()) return status;
  }
  table->pages.reserve(wanted);
  return {};
}

// ---- records ----

// A page, its checksums, its digests; what the policy keeps of it.
size_t Residency::record_bytes() const {
  const size_t bytes = node_bytes() + sizeof(Page) + kv_heads_ * (sizeof(SectionEntry) + digest_bytes_);
  return (bytes + alignof(Page) - 1) / alignof(Page) * alignof(Page);
}

size_t Residency::record_block_bytes() const { return std::max(kRecordBlockBytes, record_bytes()); }

Result<BudgetedBytes> Residency::new_bytes(ResidencyLock& lock, Use use, size_t bytes, const char* what) {
  Result<BudgetedBytes> block = BudgetedBytes::allocate(host_budget_, use, bytes);
  while (!block.ok()) {
    const Status status = make_room(lock, MemoryTier::kHost, 0, what);
    if (!status.ok()) return status;
    block = BudgetedBytes::allocate(host_budget_, use, bytes);
  }
  return block;
}

Status Residency::add_records(ResidencyLock& lock) {
  Result<BudgetedBytes> block = new_bytes(lock, Use::kTables, record_block_bytes(), "page records");
  if (!block.ok()) return block.status();
  const size_t stride = record_bytes();
  const size_t count = record_block_bytes() / stride;
  free_records_.reserve(free_records_.size() + count + record_blocks_.size() * count);
  for (size_t i = 0; i < count; ++i) {
    free_records_.push_back(reinterpret_cast<Page*>(block->data() + i * stride + node_bytes()));
  }
  record_blocks_.push_back(std::move(*block));
  return {};
}

Result<Page*> Residency::new_page(ResidencyLock& lock, const PageTable& table, uint32_t index,
                                  uint32_t bytes) {
  if (free_records_.empty()) {
    if (Status status = add_records(lock); !status.ok()) return status;
  }
  void* memory = free_records_.back();
  free_records_.pop_back();
  Page* page = new (memory) Page();
  if (eviction_.active()) new (node_of(page)) EvictionNode();
  page->entries = reinterpret_cast<SectionEntry*>(page + 1);
  if (has_digests()) page->digests = reinterpret_cast<uint8_t*>(page->entries + kv_heads_);
  page->refs = 1;
  page->index = index;
  page->layer = static_cast<uint16_t>(table.layer);
  page->stream = table.id;
  page->bytes = bytes;
  return page;
}

void Residency::unref(ResidencyLock& lock, Page* page) {
  if (--page->refs == 0 && page->pins == 0) release(lock, page);
}

void Residency::unpin(ResidencyLock& lock, Page* page) {
  if (--page->pins == 0 && page->refs == 0) release(lock, page);
}

void Residency::release(ResidencyLock& lock, Page* page) {
  for (MemoryTier tier : kMemoryTiers) drop_slot(lock, page, tier);
  if (page->on_disk) {
    const Counted counted(*this, page);
    if (pager_ != nullptr) pager_->drop(lock, page->place);
    page->on_disk = false;
  }
  if (access_trace_ != nullptr) {
    access_trace_->record({.stream = page->stream, .kind = AccessKind::kFree, .page = page->index}, {});
  }
  free_records_.push_back(page);
}

// ---- room ----

uint8_t* Residency::try_slot(ResidencyLock&, MemoryTier tier, uint32_t bytes) {
  SlotPool* pool = pools_[static_cast<size_t>(tier)].get();
  return pool == nullptr ? nullptr : pool->allocate(bytes);
}

uint8_t* Residency::try_held_slot(ResidencyLock& lock, uint32_t bytes) {
  const SlotPool& host = *pools_[static_cast<size_t>(MemoryTier::kHost)];
  return host.holds_free(bytes) ? try_slot(lock, MemoryTier::kHost, bytes) : nullptr;
}

bool Residency::has_room(ResidencyLock&, MemoryTier tier, uint32_t bytes) const {
  const SlotPool* pool = pools_[static_cast<size_t>(tier)].get();
  return pool != nullptr && pool->would_fit(bytes);
}

Status Residency::make_room(ResidencyLock& lock, MemoryTier tier, uint32_t bytes, const char* what) {
  const std::string name = tier == MemoryTier::kHost ? "host_budget" : "device_budget";
  const std::string need =
      bytes == 0 ? std::string(what) : std::string(what) + " of " + std::to_string(bytes) + " bytes";
  if (pager_ == nullptr) {
    return {StatusCode::kOverBudget,
            "no room in " + name + " for " + need + "; raise it, or set nvme_budget and nvme_path"};
  }
  const Status status = pager_->move_down(lock, tier);
  if (status.ok()) return status;
  return {status.code(), "no room in " + name + " for " + need + ": " + status.message()};
}

Result<uint8_t*> Residency::new_slot(ResidencyLock& lock, uint32_t bytes) {
  uint8_t* slot = try_slot(lock, seal_tier(), bytes);
  while (slot == nullptr) {
    const Status status = make_room(lock, seal_tier(), bytes, "a page");
    if (!status.ok()) return status;
    slot = try_slot(lock, seal_tier(), bytes);
  }
  return slot;
}

void Residency::free_slot(ResidencyLock&, MemoryTier tier, uint8_t* slot, uint32_t bytes) {
  pools_[static_cast<size_t>(tier)]->free(slot, bytes);
}

Result<float*> Residency::new_frame(ResidencyLock& lock, uint32_t bytes) {
  uint8_t* frame = frames_.allocate(bytes);
  while (frame == nullptr) {
    const Status status = make_room(lock, MemoryTier::kHost, bytes, "an unfolded page");
    if (!status.ok()) return status;
    frame = frames_.allocate(bytes);
  }
  return reinterpret_cast<float*>(frame);
}

void Residency::free_frame(ResidencyLock&, float* frame, uint32_t bytes) {
  frames_.free(reinterpret_cast<uint8_t*>(frame), bytes);
}

void Residency::keep_freed_frames(ResidencyLock&) { frames_.keep_empty_chunks(); }
void Residency::drop_freed_frames(ResidencyLock&) { frames_.drop_empty_chunks(); }

// ---- sealing ----

Status Residency::reserve(ResidencyLock& lock, PageTable* table, size_t end, size_t count) {
  while (free_records_.size() < count) {
    if (Status status = add_records(lock); !status.ok()) return status;
  }
  return grow(lock, table, end);
}

Status Residency::publish(ResidencyLock& lock, PageTable* table, uint8_t* slot, uint32_t bytes,
                          uint32_t rope_epoch, std::span<const SectionEntry> entries) {
  if (Status status = grow(lock, table, table->pages.size() + 1); !status.ok()) return status;
  const auto index = static_cast<uint32_t>(table->pages.size());
  const Result<Page*> page = new_page(lock, *table, index, bytes);
  if (!page.ok()) return page.status();
  table->pages.push_back(*page);
  restore(lock, *page, slot, rope_epoch, entries);
  return {};
}

Status Residency::replace(ResidencyLock& lock, PageTable* table, uint32_t index, uint8_t* slot,
                          uint32_t bytes, uint32_t rope_epoch, std::span<const SectionEntry> entries) {
  const Result<Page*> page = new_page(lock, *table, index, bytes);
  if (!page.ok()) return page.status();
  unref(lock, table->pages[index]);
  table->pages[index] = *page;
  restore(lock, *page, slot, rope_epoch, entries);
  return {};
}

void Residency::restore(ResidencyLock& lock, Page* page, uint8_t* slot, uint32_t rope_epoch,
                        std::span<const SectionEntry> entries) {
  std::copy(entries.begin(), entries.end(), page->entries);
  page->rope_epoch = rope_epoch;
  set_slot(lock, page, seal_tier(), slot);
  if (access_trace_ != nullptr) {
    access_trace_->record({.stream = page->stream,
                           .kind = AccessKind::kSeal,
                           .layer = page->layer,
                           .page = page->index,
                           .bytes = page->bytes},
                          {});
  }
  if (pager_ != nullptr) pager_->sealed(lock);
}

// ---- places ----

void Residency::set_slot(ResidencyLock&, Page* page, MemoryTier tier, uint8_t* slot) {
  const Counted counted(*this, page);
  page->slot[static_cast<size_t>(tier)] = slot;
  if (tier == MemoryTier::kHost && eviction_.active()) eviction_.insert(node_of(page));
  for (const auto& table : tables_) {
    const bool has_page =
        table->layer == page->layer && table->pages.size() > page->index && table->pages[page->index] == page;
    if (has_page) table->memory_end = std::max(table->memory_end, page->index + 1);
  }
}

void Residency::drop_slot(ResidencyLock& lock, Page* page, MemoryTier tier) {
  uint8_t*& slot = page->slot[static_cast<size_t>(tier)];
  if (slot == nullptr) return;
  const Counted counted(*this, page);
  free_slot(lock, tier, slot, page->bytes);
  slot = nullptr;
  if (tier == MemoryTier::kHost && eviction_.active()) eviction_.remove(node_of(page), page->refs > 0);
}

void Residency::set_place(ResidencyLock&, Page* page, const Place& place) {
  const Counted counted(*this, page);
  page->place = place;
  page->on_disk = true;
}

void Residency::drop_place(ResidencyLock& lock, Page* page) {
  if (!page->on_disk) return;
  const Counted counted(*this, page);
  if (pager_ != nullptr) pager_->drop(lock, page->place);
  page->on_disk = false;
  if (page->lost()) ++counts_.lost_pages;
}

PageState Residency::state_of(const Page& page, MemoryTier tier) const {
  if (page.slot[static_cast<size_t>(tier)] == nullptr || page.pins != 0 || page.writing)
    return PageState::kFixed;
  const bool lower = page.on_disk || (tier == MemoryTier::kDevice && page.slot[1] != nullptr);
  return lower ? PageState::kClean : PageState::kDirty;
}

std::span<Page* const> Residency::choose(ResidencyLock&, MemoryTier tier, PageState wanted,
                                         uint32_t max_pages, uint32_t window, uint32_t looks) {
  // A flush writes everything: then the order on disk counts, not who leaves memory.
  if (tier == MemoryTier::kHost && eviction_.active() && window != UINT32_MAX) {
    return choose_by_policy(wanted, max_pages, looks);
  }
  states_.clear();
  snapshots_.clear();
  for (const auto& table : tables_) {
    uint32_t& end = table->memory_end;
    while (end > 0 && table->pages[end - 1]->memory() == nullptr) --end;
    const uint32_t begin = end > window ? end - window : 0;
    for (uint32_t i = begin; i < end; ++i) states_.push_back(state_of(*table->pages[i], tier));
    snapshots_.push_back({table->last_used, begin, std::span<const PageState>(states_.data(), end - begin)});
  }
  // The states have stopped moving: point each snapshot at its own.
  const PageState* first = states_.data();
  for (TableSnapshot& snapshot : snapshots_) {
    snapshot.states = std::span(first, snapshot.states.size());
    first += snapshot.states.size();
  }
  const Victims victims = choose_victims(snapshots_, wanted, max_pages);
  if (victims.count == 0) return {};
  return std::span<Page* const>(tables_[victims.table]->pages).subspan(victims.first, victims.count);
}

}  // namespace quire
