// Pages that come up from disk: requests, the proof that they are what was asked for, and what becomes of
// them.
#include <algorithm>
#include <bit>
#include <cstring>

#include "offload/mover_parts.h"

namespace quire {

// Whether a page that is loaded may stay in memory.
bool Mover::may_stay(ResidencyLock& lock, const Page& page) {
  return !memory_is_short(context_.host_budget) || context_.residency.worth_a_slot(lock, page);
}

// What the load reads, and where; false when staging memory is too short.
bool Mover::plan_load(ResidencyLock& lock, std::span<Page* const> pages, std::span<const HeadMask> heads,
                      Load& load) {
  const CacheConfig& config = context_.config;
  std::array<PageRead, kRunPages> reads;
  load.partial = 0;
  size_t expand_bytes = 0;
  for (uint32_t i = 0; i < pages.size(); ++i) {
    const Page& page = *pages[i];
    const PageLayout& layout = config.layer[page.layer].layout_of(page.index);
    const bool compressed = page.place.length != page.bytes;
    PageRead& read = reads[i];
    read = {page.place, layout.header_bytes, layout.section.bytes, config.kv_heads, kAllHeads};
    if (!heads.empty() && heads[i] != 0) read.heads = heads[i];
    if (compressed || nearly_all(read, read_gap_) || may_stay(lock, page)) read.heads = kAllHeads;
    if (read.heads != kAllHeads) load.partial |= 1U << i;
    if (compressed) expand_bytes = run_align_up(pages.size() * uint64_t{config.largest_page_bytes()});
  }
  load.plan.build(std::span(reads).first(pages.size()), layout_.load_bytes, read_gap_);
  const size_t bytes = load.plan.bytes() + expand_bytes;
  const std::optional<size_t> memory = find_memory(bytes);
  if (!memory) return false;
  load.memory = *memory;
  load.memory_bytes = bytes;
  return true;
}

// The first stretch of staging memory that is long enough and belongs to no load.
std::optional<size_t> Mover::find_memory(size_t bytes) {
  by_memory_.clear();
  for (Load& load : loads_) {
    if (!load.is_free()) by_memory_.push_back(&load);
  }
  std::ranges::sort(by_memory_, {}, &Load::memory);
  size_t begin = 0;
  for (const Load* load : by_memory_) {
    if (load->memory - begin >= bytes) return begin;
    begin = load->memory + load->memory_bytes;
  }
  return layout_.all_loads() - begin >= bytes ? std::optional(begin) : std::nullopt;
}

LoadId Mover::begin_load(ResidencyLock& lock, std::span<Page* const> pages, std::span<const HeadMask> heads) {
  const auto free = std::ranges::find_if(loads_, &Load::is_free);
  if (free == loads_.end() || !plan_load(lock, pages, heads, *free)) return {};
  Load& load = *free;
  load.state = Load::State::kQueued;
  load.held = true;
  load.failed = 0;
  load.count = static_cast<uint32_t>(pages.size());
  for (uint32_t i = 0; i < load.count; ++i) {
    load.pages[i] = pages[i];
    load.bytes[i] = nullptr;
    load.unproven[i] = load.plan.pieces_of(i);
    context_.residency.pin(lock, pages[i]);
  }
  const auto index = static_cast<uint32_t>(free - loads_.begin());
  if (broken_) {
    lose(lock, load);
    return {index};
  }
  queued_loads_.push_back(index);
  if (queued_loads_.size() == 1) tier_->wake();  // the mover takes all of them at once
  return {index};
}

Status Mover::wait_staging() {
  ResidencyLock lock = context_.residency.lock();
  const auto is_room = [&] {
    return std::ranges::any_of(loads_, &Load::is_free) && find_memory(layout_.largest_load()).has_value();
  };
  const bool settled = wait_until(lock, load_finished_, patience_, [&] {
    return broken_ || std::ranges::none_of(loads_, &Load::is_late) || is_room();
  });
  if (is_room()) return {};
  if (broken_) return round_status_;
  if (!settled) return {StatusCode::kDeadline, kHung};
  return {StatusCode::kOverBudget, "no staging memory is free to read pages from disk; raise host_budget"};
}

// All requests of all loads that wait go to the tier together.
void Mover::start_loads() {
  starting_.clear();
  {
    ResidencyLock lock = context_.residency.lock();
    for (const uint32_t index : queued_loads_) list_reads(index);
    queued_loads_.clear();
  }
  if (starting_.empty()) return;
  tier_->get_runs(starting_);
  for (const GetRun& run : starting_) {
    if (!run.status.ok()) complete_read({run.tag, CompletionEvent::kDone, run.status.code(), 0});
  }
}

void Mover::list_reads(uint32_t index) {
  Load& load = loads_[index];
  load.state = Load::State::kReading;
  load.start = context_.clock.now();
  const std::span<const LoadPlan::Read> reads = load.plan.reads();
  load.reads_left = static_cast<uint32_t>(reads.size());
  for (uint32_t r = 0; r < reads.size(); ++r) {
    starting_.push_back({uint64_t{index} << kReadBits | r,
                         load.plan.places(reads[r]),
                         {staging_.data() + load.memory + reads[r].memory, reads[r].bytes},
                         {}});
  }
}

// The page as it was folded; nullptr when what lies on disk is nothing that expands to a page. A page is
// stored in fewer bytes than it has only where it is compressed.
const uint8_t* Mover::expanded(Load& load, uint32_t page, const Place& place) {
  const uint8_t* bytes = staging_.data() + load.memory + load.plan.page_at(page);
  const uint32_t page_bytes = load.pages[page]->bytes;
  if (place.length == page_bytes || (load.partial >> page & 1U) != 0) return bytes;
  uint8_t* out =
      staging_.data() + load.memory + load.plan.bytes() + size_t{page} * context_.config.largest_page_bytes();
  const Nanoseconds start = context_.clock.now();
  const bool ok = compressor_->expand({bytes, place.length}, {out, page_bytes});
  counts_.expansions.record(context_.clock.now() - start);
  return ok ? out : nullptr;
}

bool Mover::verify(const Page& page, const uint8_t* bytes, uint32_t first_head, uint32_t heads) const {
  const PageLayout& layout = context_.config.layer[page.layer].layout_of(page.index);
  for (uint32_t head = first_head; head < first_head + heads; ++head) {
    const SectionEntry& entry = page.entries[head];
    const std::span section(bytes + layout.header_bytes + size_t{head} * layout.section.bytes,
                            layout.section.bytes);
    if (section_checksum(section, entry.key_param, entry.value_param) != entry.checksum) return false;
  }
  return true;
}

// True when the piece is what it should be. A page's bytes count when all of its pieces are.
bool Mover::prove(Load& load, const LoadPlan::Piece& piece, const Place& place) {
  const uint8_t* bytes = expanded(load, piece.page, place);
  if (bytes == nullptr || !verify(*load.pages[piece.page], bytes, piece.first_head, piece.heads))
    return false;
  if (--load.unproven[piece.page] == 0) load.bytes[piece.page] = bytes;
  return true;
}

void Mover::complete_read(const Completion& completion) {
  const auto index = static_cast<uint32_t>(completion.tag >> kReadBits);
  Load& load = loads_[index];
  if (completion.event == CompletionEvent::kReleased) {
    ResidencyLock lock = context_.residency.lock();
    if (--load.releases_left == 0) load_finished_.notify_all();
    return;
  }
  const LoadPlan::Read& read = load.plan.reads()[completion.tag & ((1U << kReadBits) - 1)];
  const std::span<const LoadPlan::Piece> pieces = load.plan.pieces(read);
  const std::span<const Place> places = load.plan.places(read);
  uint32_t failed = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool proven = completion.code == StatusCode::kOk && prove(load, pieces[i], places[i]);
    if (!proven) failed |= 1U << pieces[i].page;
  }
  counts_.disk_reads.record(context_.clock.now() - load.start);
  if (context_.trace != nullptr) {
    const Page& first = *load.pages[pieces.front().page];
    context_.trace->record({"read", TraceCategory::kIo, Trace::kFirstFreeLane + index, load.start,
                            context_.clock.now() - load.start, first.layer, first.index,
                            pieces.back().page - pieces.front().page + 1});
  }
  ResidencyLock lock = context_.residency.lock();
  failed &= ~load.failed;
  load.failed |= failed;
  counts_.failed_reads.fetch_add(static_cast<uint64_t>(std::popcount(failed)), std::memory_order_relaxed);
  for (; failed != 0; failed &= failed - 1) {
    context_.residency.drop_place(lock, load.pages[static_cast<size_t>(std::countr_zero(failed))]);
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

// Room may have come back since the pages were dropped: then they stay. Where memory is short, so do those
// that find a free slot between others, as what is dropped seldom empties a whole chunk of them, and those
// that the policy values more than what is there.
void Mover::promote(Load& load) {
  for (uint32_t i = 0; i < load.count; ++i) {
    if ((load.partial >> i & 1U) != 0) continue;
    const bool short_of_room = memory_is_short(context_.host_budget);
    Page* page = load.pages[i];
    uint8_t* slot = nullptr;
    {
      ResidencyLock lock = context_.residency.lock();
      const bool wanted = load.bytes[i] != nullptr && page->refs > 0 && page->memory() == nullptr;
      if (!wanted) continue;
      slot = short_of_room ? context_.residency.try_held_slot(lock, page->bytes)
                           : context_.residency.try_slot(lock, MemoryTier::kHost, page->bytes);
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
  const auto partial = static_cast<uint64_t>(std::popcount(load.partial));
  counts_.partial_pages.fetch_add(partial, std::memory_order_relaxed);
  load.count = 0;
  load.held = false;
  load.state = Load::State::kFree;
}

}  // namespace quire
