#include "kvcache/page_reader.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "kvcache/page_device.h"

namespace quire {

namespace {

void pin_page(Residency& residency, ResidencyLock& lock, HeldRun* run, uint32_t i) {
  residency.pin(lock, run->pages[i]);
  run->pinned |= 1U << i;
}

// The sections of page i that a run which began at the same page brings up. Some heads' are of no use to who
// wants all.
HeadMask brings(const HeldRun* preloaded, uint32_t i, const Page* page, HeadMask wanted) {
  const bool same =
      preloaded != nullptr && (preloaded->loading >> i & 1U) != 0 && preloaded->pages[i] == page;
  const HeadMask heads = same ? preloaded->heads[i] : 0;
  return wanted == kAllHeads && heads != kAllHeads ? 0 : heads;
}

// Looks up the pages and starts the load of what `preloaded` does not bring; pins nothing.
Acquire open_run(ResidencyLock& lock, Residency& residency, const PageTable* table, uint32_t first_page,
                 uint32_t count, uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch,
                 const HeldRun* preloaded, HeldRun* run) {
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
    if (run->bytes[i] != nullptr || !page->on_disk) continue;
    const HeadMask wanted_heads = heads.empty() ? kAllHeads : heads[i];
    run->early_heads[i] = brings(preloaded, i, page, wanted_heads);
    run->heads[i] = wanted_heads & ~run->early_heads[i];
    if (run->heads[i] == 0) continue;
    missing_heads[missing_count] = run->heads[i];
    missing[missing_count++] = page;
    run->loading |= 1U << i;
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

// Where some of it is used, the load that was started before is the run's.
void take_early(HeldRun* preloaded, HeldRun* run) {
  if (std::ranges::all_of(run->early_heads, [](HeadMask heads) { return heads == 0; })) return;
  run->early_load = std::exchange(preloaded->load, {});
  run->early = std::exchange(preloaded->loading, 0);
  run->guessed = preloaded->guessed;
}

// bytes: [kRunPages], of the pages of `loading`.
void wait_for(Residency& residency, LoadId load, uint32_t loading,
              std::array<const uint8_t*, kRunPages>* bytes) {
  if (loading == 0) return;
  std::array<const uint8_t*, kRunPages> loaded{};
  residency.pager()->wait_load(load, std::span(loaded).first(static_cast<size_t>(std::popcount(loading))));
  for (uint32_t i = 0, next = 0; i < kRunPages; ++i) {
    if ((loading >> i & 1U) != 0) (*bytes)[i] = loaded[next++];
  }
}

}  // namespace

Acquire acquire_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
                    uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch, HeldRun* preloaded,
                    HeldRun* run) {
  {
    ResidencyLock lock = residency.lock();
    const Acquire result =
        open_run(lock, residency, table, first_page, count, wanted, heads, rope_epoch, preloaded, run);
    if (result != Acquire::kHeld) return result;
    for (uint32_t i = 0; i < run->count; ++i) {
      if ((run->wanted >> i & 1U) != 0) pin_page(residency, lock, run, i);
    }
  }
  if (preloaded != nullptr) {
    take_early(preloaded, run);
    release_run(residency, preloaded);
  }
  return Acquire::kHeld;
}

Acquire preload_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
                    uint32_t wanted, std::span<const HeadMask> heads, uint32_t rope_epoch, HeldRun* run) {
  ResidencyLock lock = residency.lock();
  const Acquire result =
      open_run(lock, residency, table, first_page, count, wanted, heads, rope_epoch, nullptr, run);
  for (uint32_t i = 0; i < run->count; ++i) {
    if ((run->loading >> i & 1U) != 0) pin_page(residency, lock, run, i);
  }
  return result;
}

bool claim_run(Residency& residency, const PageTable* table, uint32_t first_page, uint32_t count,
               HeldRun* run) {
  bool same = run->table == table && run->first_page == first_page && run->count == count &&
              run->wanted == all_pages(count);
  {
    ResidencyLock lock = residency.lock();
    for (uint32_t i = 0; same && i < count; ++i) {
      Page* page = table->pages[first_page + i];
      const bool is_loading = (run->loading >> i & 1U) != 0;
      same = page == run->pages[i] &&
             (is_loading ? run->heads[i] == kAllHeads : page->memory() == run->bytes[i]);
    }
    for (uint32_t i = 0; same && i < count; ++i) {
      if ((run->pinned >> i & 1U) == 0) pin_page(residency, lock, run, i);
    }
  }
  if (!same) release_run(residency, run);
  return same;
}

bool run_is_ready(Residency& residency, const HeldRun& run) {
  const auto done = [&](LoadId load) { return !load.valid() || residency.pager()->load_done(load); };
  return done(run.load) && done(run.early_load);
}

void ready_run(Residency& residency, HeldRun* run) {
  wait_for(residency, run->load, run->loading, &run->bytes);
  wait_for(residency, run->early_load, run->early, &run->early_bytes);
  for (uint32_t i = 0; run->early != 0 && i < run->count; ++i) {
    if (run->early_heads[i] == 0) continue;
    const bool in_parts = (run->loading >> i & 1U) != 0;
    // A page of which one part is lost is lost.
    if (!in_parts || run->early_bytes[i] == nullptr) run->bytes[i] = run->early_bytes[i];
    // What came in one part is read in one place, from which it may be carried to another.
    if (!in_parts) run->early_heads[i] = 0;
  }
  run->loading = 0;
  run->early = 0;
}

void release_run(Residency& residency, HeldRun* run) {
  if (run->count == 0) return;
  ready_run(residency, run);
  for (const LoadId load : {run->load, run->early_load}) {
    if (load.valid()) residency.pager()->end_load(load);
  }
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
  while (acquire_run(residency_, table, page, 1, all_pages(1), {}, epoch, nullptr, &run_) ==
         Acquire::kNoStaging) {
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
