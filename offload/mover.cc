#include "offload/mover.h"

#include <algorithm>

#include "kvcache/os_memory.h"
#include "offload/mover_parts.h"

namespace quire {
namespace {

constexpr int kMaxLate = 4;         // rounds of a write that may be late
constexpr int kMaxAttempts = 8;     // writes that someone who needs room waits for
constexpr uint32_t kDropPages = 4;  // pages dropped at once when room is needed

}  // namespace

StagingLayout plan_staging(const CacheConfig& config, uint64_t host_budget, bool compressed) {
  StagingLayout layout;
  const uint64_t page = config.largest_page_bytes();
  // Every page may need a read of its own, with padding at both ends.
  layout.load_bytes = LoadPlan::most_bytes(page);
  layout.expand_bytes = compressed ? run_align_up(kRunPages * page) : 0;
  const uint64_t load = layout.largest_load();
  // Three keep the disk busy while a run is attended; two must do where three would take over a quarter.
  const uint64_t least = 3 * load > host_budget / 4 ? 2 : 3;
  layout.loads = static_cast<uint32_t>(std::clamp<uint64_t>(host_budget / 8 / load, least, 32));
  const uint64_t write =
      std::clamp<uint64_t>(host_budget / 32, page, std::max<uint64_t>(page, uint64_t{2} << 20));
  layout.write_bytes = run_align_up(write);
  layout.writes = 2;
  return layout;
}

Mover::Mover(const CacheContext& context, Stream* copy_stream, Nanoseconds patience, MoverDrive drive)
    : context_(context), copy_stream_(copy_stream), patience_(patience), drive_(drive) {}

Result<std::unique_ptr<Mover>> Mover::create(const CacheContext& context, Stream* copy_stream,
                                             const TierOpener& open_tier, Nanoseconds patience,
                                             MoverDrive drive, SharedWriteBudget* write_budget,
                                             uint32_t compression, uint64_t read_gap) {
  std::unique_ptr<Mover> mover(new Mover(context, copy_stream, patience, drive));
  if (!open_tier) return mover;
  mover->layout_ = plan_staging(context.config, context.host_budget.limit(), compression > 0);
  Result<BudgetedBytes> staging =
      BudgetedBytes::allocate(context.host_budget, Use::kStaging, mover->layout_.total());
  if (!staging.ok()) {
    return Status(staging.status().code(),
                  "host_budget has no room to stage pages from disk: " + staging.status().message());
  }
  mover->staging_ = std::move(*staging);
  prefer_large_pages(mover->staging_.data(), mover->staging_.size());
  mover->write_budget_ = write_budget;
  mover->read_gap_ = std::max(read_gap, kRunAlign);
  if (compression > 0) {
    const CacheConfig& config = context.config;
    auto compressor = PageCompressor::create({compression, config.largest_page_bytes(), config.layers},
                                             context.host_budget);
    if (!compressor.ok()) return compressor.status();
    mover->compressor_ = std::move(*compressor);
  }
  mover->loads_.resize(std::max(kMostLoads, mover->layout_.loads));
  mover->writes_.resize(mover->layout_.writes);
  if (drive == MoverDrive::kCallers) {
    if (Status status = mover->open(open_tier); !status.ok()) return status;
    return mover;
  }
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

Status Mover::open(const TierOpener& open_tier) {
  Result<std::unique_ptr<Tier>> tier = open_tier({staging_.data(), layout_.total()});
  if (tier.ok()) tier_ = std::move(*tier);
  return tier.status();
}

bool Mover::stopping() {
  ResidencyLock lock = context_.residency.lock();
  return stopping_;
}

void Mover::run(const TierOpener& open_tier, std::promise<Status>* opened) {
  const Status status = open(open_tier);
  const bool ok = status.ok();
  opened->set_value(status);  // open_tier and opened are gone after this
  if (!ok) return;
  while (!stopping() && turn(kIdlePoll)) {
  }
  // Only the destructor comes after a stop; after a failure the tier still answers drop and stats.
  ResidencyLock lock = context_.residency.lock();
  stopped_.wait(lock, [&] { return stopping_; });
  lock.unlock();
  tier_.reset();
}

bool Mover::turn(Nanoseconds idle) {
  start_loads();
  start_write();
  std::array<Completion, 64> completions;
  // While a write is filled, what ends is settled between two of its pages.
  const Result<size_t> count = tier_->poll(completions, filling_ == nullptr ? idle : Nanoseconds::zero());
  if (!count.ok()) {
    give_up(count.status());
    return false;
  }
  for (size_t i = 0; i < *count; ++i) complete(completions[i]);
  return true;
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
  filling_ = nullptr;
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

uint8_t* Mover::write_buffer(uint32_t index) const {
  return staging_.data() + layout_.all_loads() + index * layout_.write_bytes;
}

void Mover::complete(const Completion& completion) {
  if ((completion.tag & kWriteTag) != 0) {
    complete_write(completion);
  } else {
    complete_read(completion);
  }
}

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
    const Nanoseconds start = context_.clock.now();
    Status status = copy_stream_->copy(slot, page->slot[0], page->bytes);
    if (status.ok()) status = copy_stream_->synchronize();
    counts_.host_copies.record(context_.clock.now() - start);
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
  while (!wait_until(lock, round_ended_, patience_, [&] { return rounds_ != seen; })) {
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
