#include "bindings/c/stats.h"

namespace quire::capi {
namespace {

double seconds(const std::atomic<uint64_t>& nanoseconds) {
  return static_cast<double>(nanoseconds.load(std::memory_order_relaxed)) * 1e-9;
}

double bits_per_value(uint64_t bytes, uint64_t values) {
  return values == 0 ? 0.0 : static_cast<double>(bytes) * 8.0 / static_cast<double>(values);
}

void fill_pages(Engine& engine, quire_stats* out) {
  const CacheConfig& config = engine.config();
  const CacheCounts counts = engine.cache().counts();
  ResidencyCounts pages;
  {
    ResidencyLock lock = engine.residency().lock();
    pages = engine.residency().counts(lock);
  }
  const uint64_t token_values = uint64_t{2} * config.kv_heads * config.head_dim;  // of one layer
  const uint64_t page_values = pages.pages * config.page_tokens * token_values;
  out->tokens = counts.tokens;
  out->values = page_values + counts.tail_tokens * token_values;
  out->pages = pages.pages;
  out->device_pages = pages.memory_pages[0];
  out->host_pages = pages.memory_pages[1];
  out->nvme_pages = pages.disk_pages;
  out->nvme_bytes = pages.disk_bytes;
  out->pages_lost = pages.lost_pages;
  out->page_bits = bits_per_value(pages.page_bytes, page_values);
  const Budget& host = engine.host_budget();
  out->effective_bits =
      bits_per_value(pages.page_bytes + host.used(Use::kTails) + host.used(Use::kTables), out->values);
}

// What was carried is read before what was attended, and counted after it: so it is never more.
void fill_places(const CacheCounters& counters, quire_stats* out) {
  out->carried_pages = counters.carried_pages.load(std::memory_order_acquire);
  out->carried_bytes = counters.carried_bytes.load(std::memory_order_acquire);
  out->device_attended_pages = counters.device_attended_pages.load(std::memory_order_relaxed);
  out->device_attended_bytes = counters.device_attended_bytes.load(std::memory_order_relaxed);
  out->host_attended_pages = counters.host_attended_pages.load(std::memory_order_relaxed);
  out->host_attended_bytes = counters.host_attended_bytes.load(std::memory_order_relaxed);
}

void fill_prefixes(const PrefixCache& prefixes, quire_stats* out) {
  const PrefixCounts& counts = prefixes.counts();
  out->prefix_shared_tokens = counts.shared_tokens.load(std::memory_order_relaxed);
  out->prefix_loaded_tokens = counts.loaded_tokens.load(std::memory_order_relaxed);
  out->prefix_asked_tokens = counts.asked_tokens.load(std::memory_order_relaxed);
  if (prefixes.store() == nullptr) return;
  const BlockStoreStats store = prefixes.store()->stats();
  out->store_blocks = store.blocks;
  out->store_capacity_blocks = store.capacity_blocks;
  out->store_recovered_blocks = store.recovered_blocks;
  out->store_refused_blocks = store.refused_blocks;
  out->store_stored_blocks = store.stored_blocks;
  out->store_evicted_blocks = store.evicted_blocks;
  out->store_damaged_blocks = store.damaged_blocks;
}

// What was demoted is read before what was written, and counted after it: so it is never more.
void fill_moves(const Mover& mover, quire_stats* out) {
  const MoverCounts& moved = mover.counts();
  out->demoted_pages = moved.demoted_pages.load(std::memory_order_acquire);
  out->demoted_bytes = moved.demoted_bytes.load(std::memory_order_acquire);
  out->stored_bytes = moved.stored_bytes.load(std::memory_order_relaxed);
  out->compressed_pages = moved.compressed_pages.load(std::memory_order_relaxed);
  out->tried_bytes = moved.tried_bytes.load(std::memory_order_relaxed);
  out->packed_bytes = moved.packed_bytes.load(std::memory_order_relaxed);
  out->dropped_pages = moved.dropped_pages.load(std::memory_order_relaxed);
  out->promoted_pages = moved.promoted_pages.load(std::memory_order_relaxed);
  out->partial_pages = moved.partial_pages.load(std::memory_order_relaxed);
  const TierStats tier = mover.tier_stats();
  out->nvme_file_bytes = tier.used_bytes;
  out->read_bytes = tier.read_bytes;
  out->written_bytes = tier.written_bytes;
  out->io_seconds = static_cast<double>(tier.busy.count()) * 1e-9;
}

}  // namespace

void fill_stats(Engine& engine, quire_stats* out) {
  const uint32_t struct_size = out->struct_size;
  *out = {};
  out->struct_size = struct_size;
  out->io_engine = engine.io_name();
  fill_pages(engine, out);

  const Budget& host = engine.host_budget();
  out->device_bytes = engine.device_budget() == nullptr ? 0 : engine.device_budget()->used();
  out->host_bytes = host.used();
  out->host_page_bytes = host.used(Use::kPages);
  out->host_tail_bytes = host.used(Use::kTails);
  out->host_table_bytes = host.used(Use::kTables);
  out->host_staging_bytes = host.used(Use::kStaging) + host.used(Use::kWork);

  const CacheCounters& counters = engine.counters();
  out->page_hits = counters.page_hits.load(std::memory_order_relaxed);
  out->page_misses = counters.page_misses.load(std::memory_order_relaxed);
  fill_places(counters, out);
  out->encode_seconds = seconds(counters.encode_nanoseconds);
  out->attend_seconds = seconds(counters.attend_nanoseconds);
  out->io_wait_seconds = seconds(counters.wait_nanoseconds);
  out->pages_chosen = counters.pages_chosen.load(std::memory_order_relaxed);
  out->pages_skipped = counters.pages_skipped.load(std::memory_order_relaxed);
  out->selected_rows = counters.selected_rows.load(std::memory_order_relaxed);
  if (out->selected_rows > 0) {
    const auto units = static_cast<double>(counters.missed_units.load(std::memory_order_relaxed));
    out->missed_mass = units / kMissedUnits / static_cast<double>(out->selected_rows);
  }
  // Used are counted after what they are a part of.
  out->foreseen_sections_used = counters.foreseen_sections_used.load(std::memory_order_acquire);
  out->foreseen_sections = counters.foreseen_sections.load(std::memory_order_relaxed);
  out->select_seconds = seconds(counters.select_nanoseconds);
  fill_prefixes(engine.prefixes(), out);
  if (engine.mover() == nullptr) return;
  fill_moves(*engine.mover(), out);
}

}  // namespace quire::capi
