// Pages that go down to disk: which, in what pieces, and what a write's end means for those who wait for
// room.
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "offload/mover_parts.h"

namespace quire {
namespace {

constexpr uint32_t kMaxFailures = 3;  // failed writes in a row after which only those who wait try again

// Early copies see to it that this many pages that leave next have one.
constexpr uint32_t kEarlyLooks = 1024;

constexpr uint64_t kPaddingShare = 64;  // of an early copy at most this part may be padding

uint32_t smallest_page_bytes(const CacheConfig& config) {
  uint32_t bytes = UINT32_MAX;
  for (const LayerConfig& layer : config.layer) bytes = std::min(bytes, layer.layout.bytes);
  return bytes;
}

}  // namespace

bool Mover::wants_write(ResidencyLock&) const {
  if (write_wanted_ || flushing_) return true;
  return memory_is_short(context_.host_budget) && !tier_full_ && failures_ < kMaxFailures;
}

std::vector<Page*> Mover::pick_victims(ResidencyLock& lock) {
  budget_spent_ = false;
  const bool early = !write_wanted_ && !flushing_;
  const uint32_t window = flushing_ ? UINT32_MAX : kChoiceWindow;
  const uint32_t looks = early ? kEarlyLooks : UINT32_MAX;
  // One more than a write holds tells that it is full.
  const auto most_pages =
      1 + static_cast<uint32_t>(layout_.write_bytes / smallest_page_bytes(context_.config));
  const std::span<Page* const> chosen =
      context_.residency.choose(lock, MemoryTier::kHost, PageState::kDirty, most_pages, window, looks);
  if (chosen.empty()) return {};
  // As many as one write takes and the open extent has room for: from the newest back where the newest go
  // first, else from the policy's choice on. They go down in position order.
  const bool from_front = context_.residency.evicts_by_policy();
  std::vector<Page*> pages;
  uint64_t bytes = 0;
  const Page& leader = from_front ? *chosen.front() : *chosen.back();
  const Tier::Room room = tier_->put_room({leader.stream, leader.layer}, leader.bytes);
  // Early copies leave half of the bucket to those who need room.
  std::optional<SharedWriteBudget::Access> budget;
  if (write_budget_ != nullptr) budget.emplace(write_budget_->access());
  uint64_t allowed = budget ? (*budget)->available(context_.clock.now()) / (early ? 2 : 1) : UINT64_MAX;
  allowed -= std::min(allowed, room.header_bytes);
  const uint64_t most_bytes = std::min({layout_.write_bytes, room.bytes, run_align_down(allowed)});
  tier_full_ = room.pages == 0;
  budget_spent_ = allowed < run_align_up(leader.bytes);
  bool full = false;
  for (size_t i = 0; i < chosen.size() && pages.size() < room.pages; ++i) {
    Page* page = chosen[from_front ? i : chosen.size() - 1 - i];
    full = bytes + page->bytes > most_bytes;
    if (full || page->stream != leader.stream) break;
    bytes += page->bytes;
    pages.push_back(page);
  }
  // Nobody waits for an early copy: until a run is full or fills its blocks well, more pages may join it.
  const uint64_t padding = run_align_up(bytes) - bytes;
  if (early && !full && padding > bytes / kPaddingShare) return {};
  if (budget && !pages.empty()) (*budget)->take(bytes + padding + room.header_bytes);
  if (!from_front) std::reverse(pages.begin(), pages.end());
  for (Page* page : pages) {
    page->writing = true;
    context_.residency.pin(lock, page);
  }
  return pages;
}

const char* Mover::why_nothing_moves() {
  ResidencyLock lock = context_.residency.lock();
  if (tier_full_) return "nvme_budget is used up";
  if (budget_spent_) return "nvme_write_budget_per_day is used up for now";
  const uint64_t pages = context_.residency.counts(lock).memory_pages[static_cast<size_t>(MemoryTier::kHost)];
  if (pages > 0) return "every page in memory is in use";
  return "no page is left in memory that could move to disk; raise the budget, lower max_step_tokens or free "
         "sequences";
}

// Picks the pages of the next write. False when there are none.
bool Mover::begin_write(Write& write) {
  {
    ResidencyLock lock = context_.residency.lock();
    if (!wants_write(lock)) return false;
    const bool early = !write_wanted_ && !flushing_;
    write.pages = pick_victims(lock);
    if (early && write.pages.empty()) return false;  // nobody waits for a round
  }
  write.put.clear();
  write.used = 0;
  if (!write.pages.empty()) return true;
  // A late write has ended its round already and may stay for ever.
  const bool none = std::ranges::all_of(writes_, [](const Write& w) { return w.pages.empty(); });
  if (none) end_round({StatusCode::kOverBudget, why_nothing_moves()});
  return false;
}

// Copies the next page to the write's buffer; true when it is compressed there.
bool Mover::add_page(Write& write, bool compress) {
  const Page& page = *write.pages[write.put.size()];
  uint8_t* out = write_buffer(static_cast<uint32_t>(&write - writes_.data())) + write.used;
  uint32_t stored = 0;
  if (compress) {
    const Nanoseconds start = context_.clock.now();
    stored = compressor_->compress(page.layer, {page.slot[1], page.bytes}, {out, page.bytes});
    if (const CompressionTries& tries = compressor_->tries(); tries.folded_bytes > counts_.tried_bytes) {
      counts_.compressions.record(context_.clock.now() - start);
      counts_.tried_bytes.store(tries.folded_bytes, std::memory_order_relaxed);
      counts_.packed_bytes.store(tries.packed_bytes, std::memory_order_relaxed);
    }
  }
  const bool compressed = stored > 0;
  if (!compressed) {
    stored = page.bytes;
    std::memcpy(out, page.slot[1], stored);
  }
  write.put.push_back({page.index, stored, XXH3_64bits(out, stored), compressed});
  write.used += stored;
  return compressed;
}

// True when every page is in the buffer. Compression is for writes that nobody waits for, a page a turn, so
// that reads never wait for more than one; the pages of a write that someone who needs room waits for go down
// as they are.
bool Mover::fill_write(Write& write) {
  bool compress = compressor_ != nullptr;
  if (compress) {
    ResidencyLock lock = context_.residency.lock();
    compress = !write_wanted_ || flushing_;
  }
  while (write.put.size() < write.pages.size()) {
    if (add_page(write, compress) && write.put.size() < write.pages.size()) return false;
  }
  return true;
}

void Mover::start_write() {
  if (filling_ == nullptr) {
    const auto free = std::find_if(writes_.begin(), writes_.end(), [](const Write& w) { return !w.busy; });
    if (free == writes_.end() || !begin_write(*free)) return;
    filling_ = &*free;
  }
  if (!fill_write(*filling_)) return;
  submit_write(*std::exchange(filling_, nullptr));
}

void Mover::submit_write(Write& write) {
  const auto index = static_cast<uint32_t>(&write - writes_.data());
  uint8_t* buffer = write_buffer(index);
  const size_t padded = run_align_up(write.used);
  std::memset(buffer + write.used, 0, padded - write.used);
  if (write_budget_ != nullptr) {
    uint64_t bytes = 0;
    for (const Page* page : write.pages) bytes += page->bytes;
    write_budget_->access()->give_back(run_align_up(bytes) - padded);
  }
  write.places.resize(write.pages.size());
  write.start = context_.clock.now();
  write.busy = true;
  const StreamId stream{write.pages[0]->stream, write.pages[0]->layer};
  const Status status = tier_->put_run(kWriteTag | index, stream, write.put, {buffer, padded}, write.places);
  if (status.ok()) return;
  settle_write(write, status.code(), 0);
  write.busy = false;
  end_round(status);
}

void Mover::settle_write(Write& write, StatusCode code, int os_error) {
  ResidencyLock lock = context_.residency.lock();
  const bool ok = code == StatusCode::kOk;
  for (size_t i = 0; ok && i < write.pages.size(); ++i) {
    context_.residency.set_place(lock, write.pages[i], write.places[i]);
  }
  if (ok) {
    uint64_t bytes = 0;
    for (const Page* page : write.pages) bytes += page->bytes;
    const auto compressed = std::ranges::count_if(write.put, &PutPage::compressed);
    counts_.compressed_pages.fetch_add(static_cast<uint64_t>(compressed), std::memory_order_relaxed);
    counts_.stored_bytes.fetch_add(write.used, std::memory_order_relaxed);
    counts_.demoted_pages.fetch_add(write.pages.size(), std::memory_order_release);
    counts_.demoted_bytes.fetch_add(bytes, std::memory_order_release);
  }
  failures_ = ok ? 0 : failures_ + 1;
  tier_full_ = code == StatusCode::kOverBudget || (code == StatusCode::kIo && os_error == ENOSPC);
  release_victims(lock, write);
}

void Mover::release_victims(ResidencyLock& lock, Write& write) {
  for (Page* page : write.pages) {
    page->writing = false;
    context_.residency.unpin(lock, page);
  }
  write.pages.clear();
}

void Mover::complete_write(const Completion& completion) {
  Write& write = writes_[completion.tag & ~kWriteTag];
  if (completion.event == CompletionEvent::kReleased) {
    write.busy = false;
    ResidencyLock lock = context_.residency.lock();
    --late_writes_;
    return;
  }
  if (completion.event == CompletionEvent::kExpired) {
    ResidencyLock lock = context_.residency.lock();
    ++late_writes_;
  }
  counts_.disk_writes.record(context_.clock.now() - write.start);
  if (context_.trace != nullptr && !write.pages.empty()) {
    context_.trace->record(
        {"write", TraceCategory::kIo,
         Trace::kFirstFreeLane + layout_.loads + static_cast<uint32_t>(completion.tag & ~kWriteTag),
         write.start, context_.clock.now() - write.start, write.pages[0]->layer, write.pages[0]->index,
         write.pages.size()});
  }
  settle_write(write, completion.code, completion.os_error);
  write.busy = completion.event == CompletionEvent::kExpired;
  if (completion.code == StatusCode::kOk) return end_round({});
  const std::string reason =
      completion.os_error != 0 ? std::strerror(completion.os_error) : "the disk did not answer in time";
  end_round({completion.code, "writing pages to disk failed: " + reason});
}

void Mover::end_round(Status status) {
  ResidencyLock lock = context_.residency.lock();
  ++rounds_;
  round_status_ = std::move(status);
  write_wanted_ = false;
  if (!round_status_.ok()) flushing_ = false;
  round_ended_.notify_all();
}

}  // namespace quire
