// Moves pages between memory and the tiers below: demotes early, drops late, loads on demand and ahead of it.
//
// One thread owns the tier. It starts queued loads, verifies what comes back against the checksums in the
// page records, and, while memory is short or someone waits for room, writes the pages that the policy names.
// A page is dropped from memory only when room is needed, and only when a copy lies below. Invariants: a page
// is published as loaded only after every section that was asked for has verified, and moves into memory only
// when it was read whole; a page whose bytes could not be proven loses that place; staging memory that a late
// transfer may still touch is not used again until it is released.
// Memory: fixed at creation, charged to the host budget.
// Thread safety: as Pager says. Residency's lock guards the state that is shared with callers.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "kvcache/context.h"
#include "kvcache/device.h"
#include "kvcache/latency.h"
#include "kvcache/page_reader.h"
#include "offload/load_plan.h"
#include "offload/page_compressor.h"
#include "offload/tier.h"
#include "offload/write_budget.h"

namespace quire {

struct MoverCounts {
  std::atomic<uint64_t> demoted_pages{0};  // written to the disk tier
  std::atomic<uint64_t> demoted_bytes{0};  // of these, without padding and headers, as folded
  std::atomic<uint64_t> stored_bytes{0};   // the same, as they lie on disk: less where pages are compressed
  std::atomic<uint64_t> compressed_pages{0};
  std::atomic<uint64_t> tried_bytes{0};     // of pages that compression was tried on, and what it made of
  std::atomic<uint64_t> packed_bytes{0};    // them: see CompressionTries
  std::atomic<uint64_t> copied_pages{0};    // device to host
  std::atomic<uint64_t> dropped_pages{0};   // slots given up because a copy lies below
  std::atomic<uint64_t> promoted_pages{0};  // copied back into memory after a load
  std::atomic<uint64_t> partial_pages{0};   // read in parts: the heads that were asked for
  std::atomic<uint64_t> failed_reads{0};    // pages that were not proven
  LatencyHistogram disk_reads;              // requests, from start to proof
  LatencyHistogram disk_writes;             // requests
  LatencyHistogram host_copies;             // pages, from device to host
  LatencyHistogram compressions;            // pages that were tried
  LatencyHistogram expansions;              // pages
};

// Bytes that the mover uses for transfers; the tier may register them with the system.
struct StagingLayout {
  size_t load_bytes = 0;    // the most that one load reads: a run of pages with the padding of its reads
  size_t expand_bytes = 0;  // room for its pages as they are, beside that; 0 without compression
  uint32_t loads = 0;       // as large as that; smaller ones share the memory of these
  size_t write_bytes = 0;   // of one write
  uint32_t writes = 0;
  size_t largest_load() const { return load_bytes + expand_bytes; }
  size_t all_loads() const { return largest_load() * loads; }
  size_t total() const { return all_loads() + write_bytes * writes; }
};

// A layout that leaves most of the budget to pages.
StagingLayout plan_staging(const CacheConfig& config, uint64_t host_budget, bool compressed = false);

// Who runs the mover.
enum class MoverDrive : uint8_t {
  kThread,   // a thread of its own
  kCallers,  // whoever waits for it, and turn(): one thread then steps a whole engine, for tests
};

// Opens the tier over the staging memory; runs on the mover's thread, which owns the tier from then on.
using TierOpener = std::function<Result<std::unique_ptr<Tier>>(std::span<uint8_t> staging)>;

class Mover final : public Pager {
 public:
  // open_tier may be empty: then pages move from device to host memory only. copy_stream may be null without
  // a device tier. write_budget: nullptr for no limit, else it outlives the mover; pages that it keeps in
  // memory can not make room. patience: how long, in real time, late requests may keep all of the staging
  // memory before the disk counts as hung; on the context's clock when callers drive. compression: the level
  // of PageCompressor for pages on disk; 0: they lie there as they are. read_gap: see kReadGap. Both the
  // context and the stream outlive the mover.
  static Result<std::unique_ptr<Mover>> create(const CacheContext& context, Stream* copy_stream,
                                               const TierOpener& open_tier, Nanoseconds patience,
                                               MoverDrive drive = MoverDrive::kThread,
                                               SharedWriteBudget* write_budget = nullptr,
                                               uint32_t compression = 0, uint64_t read_gap = kReadGap);
  ~Mover() override;
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  LoadId begin_load(ResidencyLock& lock, std::span<Page* const> pages,
                    std::span<const HeadMask> heads) override;
  Status wait_staging() override;
  void wait_load(LoadId id, std::span<const uint8_t*> bytes) override;
  bool load_done(LoadId id) override;
  void end_load(LoadId id) override;
  Status move_down(ResidencyLock& lock, MemoryTier tier) override;
  void sealed(ResidencyLock& lock) override;
  void drop(ResidencyLock& lock, const Place& place) override;
  Status flush() override;

  // One round of its work: starts what is due, waits at most `idle` for something to end, settles it. False
  // when the tier is broken for good. With kCallers, and from the one thread that uses everything else.
  bool turn(Nanoseconds idle);

  const MoverCounts& counts() const { return counts_; }
  // Where pages from disk lie until their load ends; empty without a disk tier.
  std::span<uint8_t> staging() { return {staging_.data(), staging_.size()}; }
  // Zeros without a disk tier.
  TierStats tier_stats() const;

 private:
  struct Load;
  struct Write;
  Mover(const CacheContext& context, Stream* copy_stream, Nanoseconds patience, MoverDrive drive);

  // On the mover's thread.
  Status open(const TierOpener& open_tier);
  void run(const TierOpener& open_tier, std::promise<Status>* opened);
  bool stopping();
  void start_loads();
  void list_reads(uint32_t index);
  void start_write();
  bool begin_write(Write& write);
  bool fill_write(Write& write);
  bool add_page(Write& write, bool compress);
  void submit_write(Write& write);
  bool wants_write(ResidencyLock& lock) const;
  std::vector<Page*> pick_victims(ResidencyLock& lock);
  const char* why_nothing_moves();
  void complete(const Completion& completion);
  void complete_read(const Completion& completion);
  void complete_write(const Completion& completion);
  void settle_write(Write& write, StatusCode code, int os_error);
  void end_round(Status status);
  void give_up(const Status& status);
  void lose(ResidencyLock& lock, Load& load);
  void release_victims(ResidencyLock& lock, Write& write);
  bool verify(const Page& page, const uint8_t* bytes, uint32_t first_head, uint32_t heads) const;
  bool prove(Load& load, const LoadPlan::Piece& piece, const Place& place);
  const uint8_t* expanded(Load& load, uint32_t page, const Place& place);

  // For callers.
  template <typename Done>
  bool wait_until(ResidencyLock& lock, std::condition_variable& changed, Nanoseconds limit, Done&& done);
  bool drop_clean(ResidencyLock& lock, MemoryTier tier);
  bool wait_round(ResidencyLock& lock);
  bool copy_to_host(ResidencyLock& lock);
  bool may_stay(ResidencyLock& lock, const Page& page);
  bool plan_load(ResidencyLock& lock, std::span<Page* const> pages, std::span<const HeadMask> heads,
                 Load& load);
  std::optional<size_t> find_memory(size_t bytes);
  void promote(Load& load);
  uint8_t* write_buffer(uint32_t index) const;

  CacheContext context_;
  Stream* copy_stream_;
  const Nanoseconds patience_;
  const MoverDrive drive_;
  StagingLayout layout_;
  BudgetedBytes staging_;
  std::vector<Load> loads_;
  std::vector<Write> writes_;
  std::deque<uint32_t> queued_loads_;
  std::vector<GetRun> starting_;  // of start_loads, kept for its memory
  std::vector<Load*> by_memory_;  // of find_memory, likewise
  std::condition_variable load_finished_;
  std::condition_variable round_ended_;
  std::condition_variable stopped_;
  uint64_t rounds_ = 0;        // writes that ended, or found nothing to write
  Status round_status_;        // of the last one
  uint32_t late_writes_ = 0;   // past their deadline, with their buffers still in use
  uint32_t failures_ = 0;      // writes in a row that failed
  bool write_wanted_ = false;  // someone waits for room or for a flush
  bool flushing_ = false;
  bool tier_full_ = false;
  bool broken_ = false;  // the io engine failed for good
  bool stopping_ = false;
  MoverCounts counts_;
  SharedWriteBudget* write_budget_ = nullptr;
  uint64_t read_gap_ = kReadGap;
  bool budget_spent_ = false;                   // nothing was written because of it
  std::unique_ptr<PageCompressor> compressor_;  // nullptr: pages go down as they are
  Write* filling_ = nullptr;                    // the write whose pages are being compressed, a page a turn
  std::unique_ptr<Tier> tier_;                  // set before and cleared after everything that uses it
  std::thread thread_;
};

}  // namespace quire
