// How the eviction policy's choices meet the page tables: what leaves host memory, and what is worth a place
// in it.
#include <algorithm>
#include <bit>

#include "kvcache/residency.h"

namespace quire {
namespace {

// Nodes that an exchange looks at, which saves one read and no more.
constexpr uint32_t kMostLooks = 256;

// The table that has the page at its index; a page outlives the table that sealed it where a fork shares it.
const PageTable* table_of(std::span<const std::unique_ptr<PageTable>> tables, const Page* page) {
  const auto found = std::ranges::find_if(tables, [page](const auto& table) {
    return table->layer == page->layer && page->index < table->pages.size() &&
           table->pages[page->index] == page;
  });
  return found == tables.end() ? nullptr : found->get();
}

}  // namespace

void Residency::set_eviction(Eviction kind) {
  eviction_.set_kind(kind == Eviction::kAuto ? Eviction::kNewestFirst : kind);
}

void Residency::record_pages(const PageUse& use) {
  // A page may be a fork's own among those of its parent: each stream gets an event.
  uint32_t left = use.wanted;
  while (left != 0) {
    const auto first = static_cast<uint32_t>(std::countr_zero(left));
    const Page& page = *use.pages[first];
    AccessEvent event{.stream = page.stream,
                      .step = use.step,
                      .kind = AccessKind::kUse,
                      .layer = page.layer,
                      .page = page.index - first,
                      .bytes = page.bytes,
                      .wanted = 0,
                      .tokens = static_cast<uint16_t>(std::min<uint64_t>(use.tokens, UINT16_MAX))};
    std::array<float, 16> mass{};
    size_t masses = 0;
    for (uint32_t rest = left; rest != 0; rest &= rest - 1) {
      const auto i = static_cast<uint32_t>(std::countr_zero(rest));
      if (use.pages[i]->stream != page.stream) continue;
      const uint32_t bit = 1U << i;
      const uint32_t before = use.wanted & (bit - 1);
      if (!use.mass.empty()) mass[masses++] = use.mass[static_cast<size_t>(std::popcount(before))];
      event.wanted = static_cast<uint16_t>(event.wanted | bit);
    }
    event.guarded = static_cast<uint16_t>(use.guarded & event.wanted);
    left &= ~uint32_t{event.wanted};
    access_trace_->record(event, std::span(mass).first(masses));
  }
}

void Residency::used(ResidencyLock&, const PageUse& use) {
  if (access_trace_ != nullptr) record_pages(use);
  if (!eviction_.active()) return;
  size_t next = 0;
  for (uint32_t left = use.wanted; left != 0; left &= left - 1, ++next) {
    const auto i = static_cast<uint32_t>(std::countr_zero(left));
    const double mass = use.mass.empty() ? 1.0 : static_cast<double>(use.mass[next]);
    eviction_.use(node_of(use.pages[i]), mass, use.step, (use.guarded >> i & 1U) != 0);
  }
}

Page* Residency::clean_victim() {
  return page_of(eviction_.victim(
      [this](const EvictionNode& node) {
        return state_of(page_of(node), MemoryTier::kHost) == PageState::kClean;
      },
      kMostLooks));
}

// What leaves goes one by one. What is written goes with its neighbours: one request, one extent.
std::span<Page* const> Residency::choose_by_policy(PageState wanted, uint32_t max_pages, uint32_t looks) {
  const uint64_t dirty = counts_.host_only_pages;
  const uint64_t clean = counts_.memory_pages[static_cast<size_t>(MemoryTier::kHost)] - dirty;
  if ((wanted == PageState::kDirty ? dirty : clean) == 0) return {};
  const auto may = [&](const EvictionNode& node) {
    return state_of(page_of(node), MemoryTier::kHost) == wanted;
  };
  Page* page = page_of(eviction_.victim(may, looks));
  if (page == nullptr) return {};
  chosen_ = page;
  const PageTable* table = wanted == PageState::kDirty ? table_of(tables_, page) : nullptr;
  if (table == nullptr || max_pages == 1) return {&chosen_, 1};
  const auto joins = [&](size_t i) {
    return may(node_of(*table->pages[i])) && table->pages[i]->stream == page->stream;
  };
  size_t begin = page->index;
  size_t end = begin + 1;
  while (end - begin < max_pages && end < table->pages.size() && joins(end)) ++end;
  while (end - begin < max_pages && begin > 0 && joins(begin - 1)) --begin;
  return std::span<Page* const>(table->pages).subspan(begin, end - begin);
}

// The page that would leave for this one, or nullptr.
Page* Residency::victim_for(const Page& page) {
  if (!eviction_.active() || pools_[0] != nullptr) return nullptr;
  Page* victim = clean_victim();
  // Slots go by size: one of another would not serve.
  const bool fits = victim != nullptr && victim->bytes == page.bytes;
  return fits && eviction_.admits(node_of(page), node_of(*victim)) ? victim : nullptr;
}

bool Residency::worth_a_slot(ResidencyLock&, const Page& page) { return victim_for(page) != nullptr; }

uint8_t* Residency::exchange_slot(ResidencyLock& lock, const Page& page) {
  Page* victim = victim_for(page);
  if (victim == nullptr) return nullptr;
  drop_slot(lock, victim, MemoryTier::kHost);
  return try_slot(lock, MemoryTier::kHost, page.bytes);
}

}  // namespace quire
