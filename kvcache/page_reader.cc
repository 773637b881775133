#include "kvcache/page_reader.h"

#include <string>

#include "kvcache/page_device.h"

namespace quire {

namespace {

void pin_page(Residency& residency, ResidencyLock& lock, HeldRun* run, uint32_t i) {
  residency.pin(lock, run->pages[i]);
  run->pinned |= 1U << i;
}

// Looks up the pages and starts the load; pins nothing.
Acquire open_run(ResidencyLock& lock, Residency& residency, const PageTable* table, uint32_t first_page,
                 uint32_t count, uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch,
                 HeldRun* run) {
  std::array<Page*, kRunPages> missing{};
  std::array<HeadMask, kRunPages> missing_heads{};
  uint32_t missing_count = 0;
  *run = {};
  for (uint32_t i = 0; i < count; ++i) {
    Page* page = table->pages[first_page + i];
    run->pages[i] = page;
    if ((wanted >> i & 1U) == 0) continue;
    if (page->rope_epoch != rope_epoch) continue;
    run->bytes[i] = page->memory();
    if (residency.device() != nullptr && page->slot[0] != nullptr) run->on_device |= 1U << i;
    if (run->bytes[i] == nullptr && page->on_disk) {
      missing_heads[missing_count] = heads.empty() ? kAllHeads : heads[i];
      missing[missing_count++] = page;
      run->loading |= 1U << i;
    }
  }
  if (missing_count > 0) {
    run->load = residency.pager()->begin_load(lock, std::span(missing).first(missing_count),
                                              std::span(missing_heads).first(missing_count));
    if (!run->load.valid()) {
      *run = {};
      return Acquire::kNoStaging;
    }
  }
  run->table = table;
  run->first_page = first_page;
  run->count = count;
  run->wanted = wanted;
  return Acquire::kHeld;
}

}  // namespace

Acquire acquire_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
                    uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch, HeldRun* run) {
  ResidencyLock lock = residency.lock();
  const Acquire result = open_run(lock, residency, table, first_page, count, wanted, heads, rope_epoch, run);
  for (uint32_t i = 0; i < run->count; ++i) {
    if ((run->wanted >> i & 1U) != 0) pin_page(residency, lock, run, i);
  }
  return result;
}

Acquire preload_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
                    uint32_t rope_epoch, HeldRun* run) {
  ResidencyLock lock = residency.lock();
  const Acquire result =
      open_run(lock, residency, table, first_page, count, all_pages(count), {}, rope_epoch, run);
  for (uint32_t i = 0; i < run->count; ++i) {
    if ((run->loading >> i & 1U) != 0) pin_page(residency, lock, run, i);
  }
  return result;
}

bool claim_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
               HeldRun* run) {
  bool same = run->table == table && run->first_page == first_page && run->count == count;
  {
    ResidencyLock lock = residency.lock();
    for (uint32_t i = 0; same && i < count; ++i) {
      Page* page = table->pages[first_page + i];
      const bool is_loading = (run->loading >> i & 1U) != 0;
      same = page == run->pages[i] && (is_loading || page->memory() == run->bytes[i]);
    }
    for (uint32_t i = 0; same && i < count; ++i) {
      if ((run->pinned >> i & 1U) == 0) pin_page(residency, lock, run, i);
    }
  }
  if (!same) release_run(residency, run);
  return same;
}

bool run_is_ready(Residency& residency, const HeldRun& run) {
  return !run.load.valid() || residency.pager()->load_done(run.load);
}

void ready_run(Residency& residency, HeldRun* run) {
  if (!run->load.valid() || run->loading == 0) return;
  std::array<const uint8_t*, kRunPages> loaded{};
  const auto loading_count = static_cast<uint32_t>(__builtin_popcount(run->loading));
  residency.pager()->wait_load(run->load, std::span(loaded).first(loading_count));
  uint32_t next = 0;
  for (uint32_t i = 0; i < run->count; ++i) {
    if ((run->loading >> i & 1U) != 0) run->bytes[i] = loaded[next++];
  }
  run->loading = 0;
}

void release_run(Residency& residency, HeldRun* run) {
  if (run->count == 0) return;
  ready_run(residency, run);
  if (run->load.valid()) residency.pager()->end_load(run->load);
  ResidencyLock lock = residency.lock();
  for (uint32_t i = 0; i < run->count; ++i) {
    if ((run->pinned >> i & 1U) != 0) residency.unpin(lock, run->pages[i]);
  }
  *run = {};
}

Result<const uint8_t*> PageReader::read(const PageTable* table, uint32_t page) {
  release_run(residency_, &run_);
  uint32_t epoch = 0;
  {
    ResidencyLock lock = residency_.lock();
    epoch = table->pages[page]->rope_epoch;
  }
  while (acquire_run(residency_, table, page, 1, all_pages(1), {}, epoch, &run_) == Acquire::kNoStaging) {
    if (Status status = residency_.pager()->wait_staging(); !status.ok()) return status;
  }
  ready_run(residency_, &run_);
  if (run_.bytes[0] == nullptr) {
    return Status(StatusCode::kMiss, "page " + std::to_string(page) + " of layer " +
                                         std::to_string(table->layer) + " is lost; refill it first");
  }
  if (run_.on_device != 0) return residency_.device()->fetch(run_.bytes[0], run_.pages[0]->bytes);
  return run_.bytes[0];
}

}  // namespace quire
