#include "offload/mover.h"

#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "offload/read_plan.h"

namespace quire {
namespace {

constexpr uint64_t kWriteTag = uint64_t{1} << 63;
constexpr uint32_t kReadsPerLoad = kRunPages;
constexpr uint32_t kMaxFailures = 3;  // failed writes in a row after which only those who wait try again
constexpr int kMaxLate = 4;           // rounds of it that may be late
constexpr int kMaxAttempts = 8;       // writes that someone who needs room waits for
constexpr uint32_t kDropPages = 4;    // pages dropped at once when room is needed
constexpr Nanoseconds kIdlePoll = std::chrono::seconds(1);  // wake cuts it short

constexpr const char* kHung = "the disk does not answer: late requests still have all the staging memory";

// Memory counts as short when less than this share of the host budget is free: pages are then copied down
// early.
bool memory_is_short(const Budget& budget) { return budget.available() < budget.limit() / 4; }

}  // namespace

struct Mover::Load {
  enum class State : uint8_t { kFree, kQueued, kReading, kDone };
  State state = State::kFree;
  bool held = false;  // between begin_load and end_load
  uint32_t count = 0;
  uint32_t reads_left = 0;     // requests that have not ended
  uint32_t releases_left = 0;  // of expired ones, whose buffer the system may still touch
  std::array<Page*, kRunPages> pages{};
  std::array<const uint8_t*, kRunPages> bytes{};
  struct Read {
    uint32_t first = 0;
    uint32_t count = 0;
    size_t buffer_offset = 0;
    Nanoseconds start{};
  };
  std::array<Read, kReadsPerLoad> reads{};

  bool is_late() const { return !held && releases_left > 0; }
  bool is_free() const { return !held && releases_left == 0 && state == State::kFree; }
};

struct Mover::Write {
  bool busy = false;
  std::vector<Page*> pages;
  std::vector<Place> places;
  Nanoseconds start{};
};

StagingLayout plan_staging(const CacheConfig& config, uint64_t host_budget) {
  StagingLayout layout;
  const uint64_t page = config.largest_page_bytes();
  // Every page may need a read of its own, with padding at both ends.
  layout.load_bytes = run_align_up(kRunPages * page) + kRunPages * 2 * kRunAlign;
  // Three keep the disk busy while a run is attended; two must do where three would take over a quarter.
  const uint64_t least = 3 * layout.load_bytes > host_budget / 4 ? 2 : 3;
  layout.loads = static_cast<uint32_t>(std::clamp<uint64_t>(host_budget / 8 / layout.load_bytes, least, 32));
  const uint64_t write =
      std::clamp<uint64_t>(host_budget / 32, page, std::max<uint64_t>(page, uint64_t{2} << 20));
  layout.write_bytes = run_align_up(write);
  layout.writes = 2;
  return layout;
}

// ---- life ----

Mover::Mover(const CacheContext& context, Stream* copy_stream, Nanoseconds patience)
    : context_(context), copy_stream_(copy_stream), patience_(patience) {}

Result<std::unique_ptr<Mover>> Mover::create(const CacheContext& context, Stream* copy_stream,
                                             const TierOpener& open_tier, Nanoseconds patience) {
  std::unique_ptr<Mover> mover(new Mover(context, copy_stream, patience));
  if (!open_tier) return mover;
  mover->layout_ = plan_staging(context.config, context.host_budget.limit());
  Result<BudgetedBytes> staging =
      BudgetedBytes::allocate(context.host_budget, Use::kStaging, mover->layout_.total());
  if (!staging.ok()) {
    return Status(staging.status().code(),
                  "host_budget has no room to stage pages from disk: " + staging.status().message());
  }
  mover->staging_ = std::move(*staging);
  mover->loads_.resize(mover->layout_.loads);
  mover->writes_.resize(mover->layout_.writes);
  std::promise<Status> opened;
  std::future<Status> result = opened.get_future();
  mover->thread_ = std::thread([m = mover.get(), &open_tier, &opened] { m->run(open_tier, &opened); });
  if (Status status = result.get(); !status.ok()) return status;
  return mover;
}

Mover::~Mover() {
  if (thread_.joinable()) {
    {
      ResidencyLock lock = context_.residency.lock();
      stopping_ = true;
      stopped_.notify_all();
      if (tier_ != nullptr) tier_->wake();
    }
    thread_.join();
  }
}

void Mover::run(const TierOpener& open_tier, std::promise<Status>* opened) {
  Result<std::unique_ptr<Tier>> tier = open_tier({staging_.data(), staging_.size()});
  if (tier.ok()) tier_ = std::move(*tier);
  const Status status = tier.status();
  const bool ok = status.ok();
  opened->set_value(status);  // open_tier and opened are gone after this
  if (!ok) return;
  std::array<Completion, 32> completions;
  for (;;) {
    {
      ResidencyLock lock = context_.residency.lock();
      if (stopping_) break;
    }
    start_loads();
    start_write();
    const Result<size_t> count = tier_->poll(completions, kIdlePoll);
    if (!count.ok()) {
      give_up(count.status());
      break;
    }
    for (size_t i = 0; i < *count; ++i) complete(completions[i]);
  }
  // Only the destructor comes after a stop; after a failure the tier still answers drop and stats.
  ResidencyLock lock = context_.residency.lock();
  stopped_.wait(lock, [&] { return stopping_; });
  lock.unlock();
  tier_.reset();
}

// The io engine is broken: what was to be read is lost, what is in memory stays there.
void Mover::give_up(const Status& status) {
  ResidencyLock lock = context_.residency.lock();
  broken_ = true;
  for (Load& load : loads_) {
    const bool waiting = load.state == Load::State::kQueued || load.state == Load::State::kReading;
    if (waiting) lose(lock, load);
  }
  queued_loads_.clear();
  for (Write& write : writes_) release_victims(lock, write);
  ++rounds_;
  round_status_ = status;
  load_finished_.notify_all();
  round_ended_.notify_all();
}

void Mover::lose(ResidencyLock& lock, Load& load) {
  for (uint32_t i = 0; i < load.count; ++i) {
    load.bytes[i] = nullptr;
    context_.residency.drop_place(lock, load.pages[i]);
  }
  load.state = Load::State::kDone;
}

uint8_t* Mover::load_buffer(uint32_t index) const { return staging_.data() + index * layout_.load_bytes; }

uint8_t* Mover::write_buffer(uint32_t index) const {
  return staging_.data() + layout_.loads * layout_.load_bytes + index * layout_.write_bytes;
}

// ---- loads ----

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
  const bool settled = load_finished_.wait_for(lock, patience_, [&] {
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
      if (!verify(page, bytes)) continue;
      load.bytes[i] = bytes;
      ++proven;
    }
  }
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
  load_finished_.wait(lock, [&] { return load.state == Load::State::kDone; });
  std::copy_n(load.bytes.begin(), load.count, bytes.begin());
}

bool Mover::load_done(LoadId id) {
  ResidencyLock lock = context_.residency.lock();
  return loads_[id.value].state == Load::State::kDone;
}

// Room may have come back since the pages were dropped: then they stay.
void Mover::promote(Load& load) {
  for (uint32_t i = 0; i < load.count && !memory_is_short(context_.host_budget); ++i) {
    Page* page = load.pages[i];
    uint8_t* slot = nullptr;
    {
      ResidencyLock lock = context_.residency.lock();
      const bool wanted = load.bytes[i] != nullptr && page->refs > 0 && page->memory() == nullptr;
      if (wanted) slot = context_.residency.try_slot(lock, MemoryTier::kHost, page->bytes);
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

// ---- writes ----

bool Mover::wants_write(ResidencyLock&) const {
  if (write_wanted_ || flushing_) return true;
  return memory_is_short(context_.host_budget) && !tier_full_ && failures_ < kMaxFailures;
}

std::vector<Page*> Mover::pick_victims(ResidencyLock& lock) {
  const uint32_t window = flushing_ ? UINT32_MAX : kChoiceWindow;
  const auto most_pages = static_cast<uint32_t>(layout_.write_bytes / kPlaceAlign);
  const std::span<Page* const> chosen =
      context_.residency.choose(lock, MemoryTier::kHost, PageState::kDirty, most_pages, window);
  if (chosen.empty()) return {};
  // From the newest back, as many as one write takes and the open extent has room for; they go down in
  // position order.
  std::vector<Page*> pages;
  uint64_t bytes = 0;
  const Page& newest = *chosen.back();
  const Tier::Room room = tier_->put_room({newest.stream, newest.layer}, newest.bytes);
  const uint64_t most_bytes = std::min<uint64_t>(layout_.write_bytes, room.bytes);
  tier_full_ = room.pages == 0;
  for (size_t i = chosen.size(); i > 0 && pages.size() < room.pages; --i) {
    Page* page = chosen[i - 1];
    const bool fits = bytes + page->bytes <= most_bytes && page->stream == newest.stream;
    if (!fits) break;
    bytes += page->bytes;
    pages.push_back(page);
  }
  std::reverse(pages.begin(), pages.end());
  for (Page* page : pages) {
    page->writing = true;
    context_.residency.pin(lock, page);
  }
  return pages;
}

const char* Mover::why_nothing_moves() {
  if (tier_full_) return "nvme_budget is used up";
  ResidencyLock lock = context_.residency.lock();
  const uint64_t pages = context_.residency.counts(lock).memory_pages[static_cast<size_t>(MemoryTier::kHost)];
  if (pages > 0) return "every page in memory is in use";
  return "no page is left in memory that could move to disk; raise the budget, lower max_step_tokens or free "
         "sequences";
}

void Mover::start_write() {
  const auto free = std::find_if(writes_.begin(), writes_.end(), [](const Write& w) { return !w.busy; });
  if (free == writes_.end()) return;
  Write& write = *free;
  const auto index = static_cast<uint32_t>(free - writes_.begin());
  {
    ResidencyLock lock = context_.residency.lock();
    if (!wants_write(lock)) return;
    write.pages = pick_victims(lock);
  }
  if (write.pages.empty()) {
    const bool idle = std::none_of(writes_.begin(), writes_.end(), [](const Write& w) { return w.busy; });
    if (idle) end_round({StatusCode::kOverBudget, why_nothing_moves()});
    return;
  }
  uint8_t* buffer = write_buffer(index);
  size_t used = 0;
  std::vector<PutPage> put;
  for (const Page* page : write.pages) {
    std::memcpy(buffer + used, page->memory(), page->bytes);
    put.push_back({page->index, page->bytes, XXH3_64bits(buffer + used, page->bytes)});
    used += page->bytes;
  }
  const size_t padded = run_align_up(used);
  std::memset(buffer + used, 0, padded - used);
  write.places.resize(write.pages.size());
  write.start = context_.clock.now();
  write.busy = true;
  const StreamId stream{write.pages[0]->stream, write.pages[0]->layer};
  const Status status = tier_->put_run(kWriteTag | index, stream, put, {buffer, padded}, write.places);
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
  if (ok) counts_.demoted_pages.fetch_add(write.pages.size(), std::memory_order_relaxed);
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

void Mover::complete(const Completion& completion) {
  if ((completion.tag & kWriteTag) != 0) {
    complete_write(completion);
  } else {
    complete_read(completion);
  }
}

// ---- room ----

bool Mover::drop_clean(ResidencyLock& lock, MemoryTier tier) {
  const std::span<Page* const> pages = context_.residency.choose(lock, tier, PageState::kClean, kDropPages);
  for (Page* page : pages) context_.residency.drop_slot(lock, page, tier);
  counts_.dropped_pages.fetch_add(pages.size(), std::memory_order_relaxed);
  return !pages.empty();
}

bool Mover::copy_to_host(ResidencyLock& lock) {
  const std::span<Page* const> pages =
      context_.residency.choose(lock, MemoryTier::kDevice, PageState::kDirty, 1);
  if (pages.empty()) return false;
  Page* page = pages[0];
  context_.residency.pin(lock, page);
  uint8_t* slot = context_.residency.try_slot(lock, MemoryTier::kHost, page->bytes);
  while (slot == nullptr && move_down(lock, MemoryTier::kHost).ok()) {
    slot = context_.residency.try_slot(lock, MemoryTier::kHost, page->bytes);
  }
  if (slot != nullptr) {
    lock.unlock();
    Status status = copy_stream_->copy(slot, page->slot[0], page->bytes);
    if (status.ok()) status = copy_stream_->synchronize();
    lock.lock();
    if (status.ok()) {
      context_.residency.set_slot(lock, page, MemoryTier::kHost, slot);
      counts_.copied_pages.fetch_add(1, std::memory_order_relaxed);
    } else {
      context_.residency.free_slot(lock, MemoryTier::kHost, slot, page->bytes);
      slot = nullptr;
    }
  }
  context_.residency.unpin(lock, page);
  return slot != nullptr;
}

// False when late writes have kept every buffer for too long: no round can end then.
bool Mover::wait_round(ResidencyLock& lock) {
  const uint64_t seen = rounds_;
  tier_->wake();
  while (!round_ended_.wait_for(lock, patience_, [&] { return rounds_ != seen; })) {
    if (late_writes_ == layout_.writes) return false;
  }
  return true;
}

Status Mover::move_down(ResidencyLock& lock, MemoryTier tier) {
  if (drop_clean(lock, tier)) return {};
  if (tier == MemoryTier::kDevice) {
    if (copy_to_host(lock)) return {};
    return {StatusCode::kOverBudget, "no page can move from device to host memory"};
  }
  if (tier_ == nullptr)
    return {StatusCode::kOverBudget, "set nvme_budget and nvme_path to let pages move to disk"};
  // A write may be under way: its round helps as well. The next one is asked for in any case.
  // A disk that fails now and then must not stop the engine; one that hangs may not hold it for long: two
  // deadlines, as two writes may be under way at once.
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    const bool hangs = attempt >= kMaxLate && round_status_.code() == StatusCode::kDeadline;
    if (broken_ || hangs) return round_status_;
    write_wanted_ = true;
    if (!wait_round(lock)) return {StatusCode::kDeadline, kHung};
    if (drop_clean(lock, tier)) return {};
  }
  return {round_status_.ok() ? StatusCode::kOverBudget : round_status_.code(), round_status_.message()};
}

void Mover::sealed(ResidencyLock& lock) {
  if (tier_ != nullptr && wants_write(lock)) tier_->wake();
}

void Mover::drop(ResidencyLock&, const Place& place) {
  if (tier_ == nullptr) return;
  tier_->drop({&place, 1});
  tier_full_ = false;
}

Status Mover::flush() {
  ResidencyLock lock = context_.residency.lock();
  if (tier_ == nullptr) return {};
  const auto all_down = [&] {
    const bool writing =
        std::any_of(writes_.begin(), writes_.end(), [](const Write& w) { return !w.pages.empty(); });
    return !writing &&
           context_.residency.choose(lock, MemoryTier::kHost, PageState::kDirty, 1, UINT32_MAX).empty();
  };
  while (!all_down()) {
    if (broken_) return round_status_;
    flushing_ = true;
    if (!wait_round(lock)) {
      flushing_ = false;
      return {StatusCode::kDeadline, kHung};
    }
    if (!round_status_.ok() && !all_down()) {
      flushing_ = false;
      return round_status_;
    }
  }
  flushing_ = false;
  return {};
}

TierStats Mover::tier_stats() const { return tier_ == nullptr ? TierStats{} : tier_->stats(); }

}  // namespace quire
