// Pages that come up from disk: requests, the proof that they are what was asked for, and what becomes of
// them.
#include <algorithm>
#include <cstring>

#include "offload/mover_parts.h"
#include "offload/read_plan.h"

namespace quire {

LoadId Mover::begin_load(ResidencyLock& lock, std::span<Page* const> pages) {
  const auto free = std::ranges::find_if(loads_, &Load::is_free);
  if (free == loads_.end()) return {};
  Load& load = *free;
  load.state = Load::State::kQueued;
  load.held = true;
  load.count = static_cast<uint32_t>(pages.size());
  for (uint32_t i = 0; i < load.count; ++i) {
    load.pages[i] = pages[i];
    load.bytes[i] = nullptr;
    context_.residency.pin(lock, pages[i]);
  }
  const auto index = static_cast<uint32_t>(free - loads_.begin());
  if (broken_) {
    lose(lock, load);
    return {index};
  }
  queued_loads_.push_back(index);
  tier_->wake();
  return {index};
}

Status Mover::wait_staging() {
  ResidencyLock lock = context_.residency.lock();
  const bool settled = wait_until(lock, load_finished_, patience_, [&] {
    return broken_ || std::ranges::any_of(loads_, &Load::is_free) ||
           std::ranges::none_of(loads_, &Load::is_late);
  });
  if (std::ranges::any_of(loads_, &Load::is_free)) return {};
  if (broken_) return round_status_;
  if (!settled) return {StatusCode::kDeadline, kHung};
  return {StatusCode::kOverBudget, "no staging memory is free to read pages from disk; raise host_budget"};
}

void Mover::start_loads() {
  for (;;) {
    uint32_t index = 0;
    {
      ResidencyLock lock = context_.residency.lock();
      if (queued_loads_.empty()) return;
      index = queued_loads_.front();
      queued_loads_.pop_front();
      loads_[index].state = Load::State::kReading;
    }
    start_load(index);
  }
}

void Mover::start_load(uint32_t index) {
  Load& load = loads_[index];
  std::array<Place, kRunPages> places;
  {
    ResidencyLock lock = context_.residency.lock();
    for (uint32_t i = 0; i < load.count; ++i) places[i] = load.pages[i]->place;
  }
  const std::vector<ReadRun> runs = plan_runs(std::span(places).first(load.count), layout_.load_bytes);
  load.reads_left = static_cast<uint32_t>(runs.size());
  size_t offset = 0;
  for (uint32_t r = 0; r < runs.size(); ++r) {
    const ReadRun& run = runs[r];
    load.reads[r] = {static_cast<uint32_t>(run.first), static_cast<uint32_t>(run.count), offset,
                     context_.clock.now()};
    const std::span<uint8_t> buffer(load_buffer(index) + offset, run.bytes);
    offset += run.bytes;
    const uint64_t tag = uint64_t{index} * kReadsPerLoad + r;
    const Status status = tier_->get_run(tag, std::span(places).subspan(run.first, run.count), buffer);
    if (!status.ok()) complete_read({tag, CompletionEvent::kDone, status.code(), 0});
  }
}

// The page as it was folded; nullptr when what lies on disk is nothing that expands to a page. A page is
// stored in fewer bytes than it has only where it is compressed.
const uint8_t* Mover::expanded(const Page& page, const uint8_t* bytes, uint32_t load, uint32_t slot) {
  if (page.place.length == page.bytes) return bytes;
  uint8_t* out = expand_buffer(load) + size_t{slot} * context_.config.largest_page_bytes();
  const Nanoseconds start = context_.clock.now();
  const bool ok = compressor_->expand({bytes, page.place.length}, {out, page.bytes});
  counts_.expansions.record(context_.clock.now() - start);
  return ok ? out : nullptr;
}

bool Mover::verify(const Page& page, const uint8_t* bytes) const {
  const PageLayout& layout = context_.config.layer[page.layer].layout_of(page.index);
  for (uint32_t head = 0; head < context_.config.kv_heads; ++head) {
    const SectionEntry& entry = page.entries[head];
    const std::span section(bytes + layout.header_bytes + size_t{head} * layout.section.bytes,
                            layout.section.bytes);
    if (section_checksum(section, entry.key_param, entry.value_param) != entry.checksum) return false;
  }
  return true;
}

void Mover::complete_read(const Completion& completion) {
  const auto index = static_cast<uint32_t>(completion.tag / kReadsPerLoad);
  Load& load = loads_[index];
  if (completion.event == CompletionEvent::kReleased) {
    ResidencyLock lock = context_.residency.lock();
    if (--load.releases_left == 0) load_finished_.notify_all();
    return;
  }
  const Load::Read& read = load.reads[completion.tag % kReadsPerLoad];
  const uint64_t base = run_align_down(load.pages[read.first]->place.offset);
  uint32_t proven = 0;
  if (completion.code == StatusCode::kOk) {
    for (uint32_t i = read.first; i < read.first + read.count; ++i) {
      const Page& page = *load.pages[i];
      const uint8_t* bytes = load_buffer(index) + read.buffer_offset + (page.place.offset - base);
      bytes = expanded(page, bytes, index, i);
      if (bytes == nullptr || !verify(page, bytes)) continue;
      load.bytes[i] = bytes;
      ++proven;
    }
  }
  counts_.disk_reads.record(context_.clock.now() - read.start);
  if (context_.trace != nullptr) {
    context_.trace->record({"read", TraceCategory::kIo, Trace::kFirstFreeLane + index, read.start,
                            context_.clock.now() - read.start, load.pages[read.first]->layer,
                            load.pages[read.first]->index, read.count});
  }
  counts_.failed_reads.fetch_add(read.count - proven, std::memory_order_relaxed);
  ResidencyLock lock = context_.residency.lock();
  for (uint32_t i = read.first; i < read.first + read.count; ++i) {
    if (load.bytes[i] == nullptr) context_.residency.drop_place(lock, load.pages[i]);
  }
  if (completion.event == CompletionEvent::kExpired) ++load.releases_left;
  if (--load.reads_left > 0) return;
  load.state = Load::State::kDone;
  load_finished_.notify_all();
}

void Mover::wait_load(LoadId id, std::span<const uint8_t*> bytes) {
  ResidencyLock lock = context_.residency.lock();
  const Load& load = loads_[id.value];
  wait_until(lock, load_finished_, kForever, [&] { return load.state == Load::State::kDone; });
  std::copy_n(load.bytes.begin(), load.count, bytes.begin());
}

bool Mover::load_done(LoadId id) {
  ResidencyLock lock = context_.residency.lock();
  return loads_[id.value].state == Load::State::kDone;
}

// Room may have come back since the pages were dropped: then they stay. So do those that the policy values
// more than what is there.
void Mover::promote(Load& load) {
  for (uint32_t i = 0; i < load.count; ++i) {
    const bool short_of_room = memory_is_short(context_.host_budget);
    if (short_of_room && !context_.residency.evicts_by_policy()) return;
    Page* page = load.pages[i];
    uint8_t* slot = nullptr;
    {
      ResidencyLock lock = context_.residency.lock();
      const bool wanted = load.bytes[i] != nullptr && page->refs > 0 && page->memory() == nullptr;
      if (!wanted) continue;
      if (!short_of_room) slot = context_.residency.try_slot(lock, MemoryTier::kHost, page->bytes);
      if (slot == nullptr) {
        slot = context_.residency.exchange_slot(lock, *page);
        if (slot != nullptr) counts_.dropped_pages.fetch_add(1, std::memory_order_relaxed);
      }
    }
    if (slot == nullptr) continue;
    std::memcpy(slot, load.bytes[i], page->bytes);
    ResidencyLock lock = context_.residency.lock();
    context_.residency.set_slot(lock, page, MemoryTier::kHost, slot);
    counts_.promoted_pages.fetch_add(1, std::memory_order_relaxed);
  }
}

void Mover::end_load(LoadId id) {
  Load& load = loads_[id.value];
  promote(load);
  ResidencyLock lock = context_.residency.lock();
  for (uint32_t i = 0; i < load.count; ++i) context_.residency.unpin(lock, load.pages[i]);
  load.count = 0;
  load.held = false;
  load.state = Load::State::kFree;
}

}  // namespace quire
