// What is read before it is attended: the next layer's pages, what the caller names, and what guessed queries
// choose. Such runs wait in ahead_, in the order in which they will be wanted.
#include <algorithm>
#include <bit>

#include "kvcache/attend_call.h"

namespace quire {
namespace {

uint32_t page_count(Residency& residency, const PageTable& table) {
  const ResidencyLock lock = residency.lock();
  return static_cast<uint32_t>(table.pages.size());
}

uint64_t sections(HeadMask heads, uint32_t kv_heads) {
  return std::min<uint64_t>(kv_heads, static_cast<uint64_t>(std::popcount(heads)));
}

bool is_of_layer(const HeldRun& run, const Step& step, uint32_t layer) {
  return std::ranges::any_of(
      step.entries, [&](const StepEntry& entry) { return entry.sequence->layers[layer].table == run.table; });
}

}  // namespace

template <typename Predicate>
void Attender::release_ahead_if(Predicate&& predicate) {
  std::erase_if(ahead_, [&](HeldRun& run) {
    if (!predicate(run)) return false;
    release_run(context_.residency, &run);
    return true;
  });
}

void Attender::release_ahead() {
  release_ahead_if([](const HeldRun&) { return true; });
}

// Gives back what was loaded for sequences that are not in the step.
void Attender::release_strangers(const Step& step) {
  release_ahead_if([&](const HeldRun& run) {
    return std::ranges::none_of(step.entries, [&](const StepEntry& entry) {
      return entry.sequence->layers[run.table->layer].table == run.table;
    });
  });
}

std::deque<HeldRun>::iterator Attender::find_ahead(const PageTable* table, uint32_t first_page) {
  return std::ranges::find_if(
      ahead_, [&](const HeldRun& run) { return run.table == table && run.first_page == first_page; });
}

// Moves the run from what was loaded ahead to what is held.
bool Attender::claim_ahead(const PageTable* table, const PageRun& wanted) {
  // Runs are wanted in the order of positions: what lies before will not be.
  release_ahead_if(
      [&](const HeldRun& run) { return run.table == table && run.first_page < wanted.first_page; });
  const auto ahead = find_ahead(table, wanted.first_page);
  if (ahead == ahead_.end()) return false;
  const bool same = claim_run(context_.residency, table, wanted.first_page, wanted.count, &*ahead);
  if (same) {
    count_hits(ahead->wanted & ~ahead->loading);
    held_.push_back(*ahead);
  }
  ahead_.erase(ahead);
  return same;
}

// A run that was loaded ahead, or one of no pages.
HeldRun Attender::take_ahead(const PageTable* table, uint32_t first_page) {
  const auto ahead = find_ahead(table, first_page);
  if (ahead == ahead_.end()) return {};
  const HeldRun run = *ahead;
  ahead_.erase(ahead);
  return run;
}

// Gives back what is left of a layer that has been attended.
void Attender::release_layer(const Step& step, uint32_t layer) {
  release_ahead_if([&](const HeldRun& run) { return is_of_layer(run, step, layer); });
}

bool Attender::any_on_disk() {
  ResidencyLock lock = context_.residency.lock();
  return context_.residency.counts(lock).disk_pages > 0;
}

bool Attender::preload(const Sequence& sequence, uint32_t layer, uint32_t first_page, uint32_t count) {
  const PageTable* table = sequence.layers[layer].table;
  HeldRun run;
  if (preload_run(context_.residency, table, first_page, count, all_pages(count), {},
                  context_.config.page_epoch(sequence.rope.epoch), &run) != Acquire::kHeld) {
    return false;
  }
  count_misses(run.loading);
  ahead_.push_back(run);
  return true;
}

void Attender::hold_next_layer(Call& call) {
  const uint32_t next = (call.layer + 1) % context_.config.layers;
  for (const PageRun& wanted : plan_.runs) {
    if (ahead_.size() >= kAheadRuns) return;
    const Sequence& sequence = *call.step->entries[wanted.entry].sequence;
    const PageTable* table = sequence.layers[next].table;
    if (find_ahead(table, wanted.first_page) != ahead_.end()) continue;
    // The next layer may not have sealed the step's own pages yet.
    if (page_count(context_.residency, *table) < wanted.first_page + wanted.count) return;
    if (!preload(sequence, next, wanted.first_page, wanted.count)) return;
  }
}

void Attender::prefetch(const Sequence& sequence, uint32_t layer, uint32_t first_page, uint32_t count) {
  const PageTable* table = sequence.layers[layer].table;
  const uint32_t all_pages = page_count(context_.residency, *table);
  // Whole runs, as attention will ask for them.
  for (uint32_t first = first_page / kRunPages * kRunPages; first < first_page + count; first += kRunPages) {
    if (ahead_.size() >= kAheadRuns) return;
    if (find_ahead(table, first) != ahead_.end()) continue;
    if (!preload(sequence, layer, first, std::min(kRunPages, all_pages - first))) return;
  }
}

// Of a layer that has not been appended to in this step, the step's own pages are not there yet.
void Attender::keep_sealed(const Call& call) {
  for (Tile& tile : plan_.tiles) {
    tile.fold_end = std::min(tile.fold_end, page_count(context_.residency, call.table(tile)));
    tile.fold_begin = std::min(tile.fold_begin, tile.fold_end);
  }
  std::erase_if(plan_.runs, [&](PageRun& run) {
    const uint32_t pages = page_count(context_.residency, call.table(run));
    if (run.first_page >= pages) return true;
    run.count = std::min(run.count, pages - run.first_page);
    return false;
  });
}

// Of a page that some tile chooses, the sections of its kv head begin to come up.
bool Attender::preload_chosen(const Call& call, const PageRun& chosen) {
  const Sequence& sequence = *call.step->entries[chosen.entry].sequence;
  HeldRun run;
  if (preload_run(context_.residency, sequence.layers[call.layer].table, chosen.first_page, chosen.count,
                  chosen.wanted, std::span(chosen.heads).first(chosen.count),
                  context_.config.page_epoch(sequence.rope.epoch), &run) != Acquire::kHeld) {
    return false;
  }
  uint64_t read = 0;
  for (uint32_t i = 0; i < run.count; ++i) read += sections(run.heads[i], context_.config.kv_heads);
  context_.counters.foreseen_sections.fetch_add(read, std::memory_order_relaxed);
  run.guessed = true;
  if (run.loading != 0) ahead_.push_back(run);
  return true;
}

void Attender::count_foreseen(const HeldRun& run, const PageRun& wanted) const {
  if (!run.guessed) return;
  uint64_t used = 0;
  for (uint32_t i = 0; i < run.count; ++i) {
    used += sections(run.early_heads[i] & wanted.heads[i], context_.config.kv_heads);
  }
  context_.counters.foreseen_sections_used.fetch_add(used, std::memory_order_release);
}

Status Attender::choose_ahead(Step* step, uint32_t layer, const AttendArgs& args) {
  Call call{step, layer, context_.config.layer[layer], args};
  call.guessed = true;
  // A device's pages are attended whole where they lie.
  if (!call.selective() || call.checked() || context_.residency.device() != nullptr || !any_on_disk())
    return {};
  release_strangers(*step);
  // An earlier guess makes way; what was prefetched is as good for the choice.
  release_ahead_if([&](const HeldRun& run) { return run.guessed && is_of_layer(run, *step, layer); });
  plan_.build(context_.config, *step, args);
  keep_sealed(call);
  if (Status status = prepare(call); !status.ok()) return status;
  if (Status status = select(call); !status.ok()) return status;
  for (const PageRun& chosen : plan_.runs) {
    if (find_ahead(&call.table(chosen), chosen.first_page) != ahead_.end()) continue;
    if (ahead_.size() >= kAheadRuns || !preload_chosen(call, chosen)) break;
  }
  return {};
}

}  // namespace quire
