// The seam to a place below memory: pages go down and come back in runs, asynchronously, under a hard byte
// budget.
//
// A run is a row of pages of one stream that moves as one request and shares one fate: the status of its
// completion holds for each of its pages. What comes back is not trusted: the reader proves each page against
// the checksums it kept. Bytes that a request moves are never interpreted here. Thread safety: put_run,
// get_run and poll belong to one thread, the first that calls one of them. wake, drop, put_room, stats and
// table_bytes may be called from any thread. Destroyed by its own thread, or by any once pending() is 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kvcache/clock.h"
#include "kvcache/place.h"
#include "kvcache/status.h"
#include "offload/completion.h"

namespace quire {

// Buffers of runs start at a multiple of this and are a multiple of it long; so do runs in a file.
inline constexpr uint64_t kRunAlign = 4096;
// Pages start at multiples of this inside a run.
inline constexpr uint32_t kPlaceAlign = 64;

constexpr uint64_t run_align_down(uint64_t n) { return n / kRunAlign * kRunAlign; }
constexpr uint64_t run_align_up(uint64_t n) { return run_align_down(n + kRunAlign - 1); }

// Pages of one stream lie near each other. A stream is what is read back in one sweep: one layer of one
// sequence.
struct StreamId {
  uint64_t sequence = 0;
  uint32_t layer = 0;
  bool operator==(const StreamId&) const = default;
};

struct PutPage {
  uint32_t index = 0;   // page index in its sequence
  uint32_t length = 0;  // stored bytes, a positive multiple of kPlaceAlign
  // Of the stored bytes, as the reader will compute it; kept beside the page, not checked.
  uint64_t checksum = 0;
  bool compressed = false;  // said in the extent's header, and nothing else is made of it
};

// The places of one ReadRun (see read_plan.h), all of one extent, by rising offset: pages, or parts of them.
// buffer: aligned to kRunAlign, at least run_align_up(end of the last) - run_align_down(places[0].offset)
// bytes. Place i is then at buffer[places[i].offset - run_align_down(places[0].offset)].
struct GetRun {
  uint64_t tag = 0;
  std::span<const Place> places;
  std::span<uint8_t> buffer;
  Status status;
};

struct TierStats {
  uint64_t capacity = 0;    // the byte budget
  uint64_t used_bytes = 0;  // space handed out, never more than capacity
  uint64_t live_bytes = 0;  // pages in it
  uint64_t read_bytes = 0;  // moved since opening, padding and headers included
  uint64_t written_bytes = 0;
  uint64_t puts = 0;  // runs that ended, by kind and outcome
  uint64_t gets = 0;
  uint64_t failed_puts = 0;
  uint64_t failed_gets = 0;
  uint64_t headers = 0;            // of extents
  uint64_t failed_headers = 0;     // their extents would not be found by a recovery
  uint64_t stray_completions = 0;  // the engine reported what was over already; ignored
  Nanoseconds busy{};              // time with at least one request under way
};

class Tier {
 public:
  virtual ~Tier() = default;

  // Starts to write one run. The pages lie back to back in `buffer`, which is as long as their sum rounded up
  // to kRunAlign, aligned to it, and untouched by the caller until the run has ended; its padding is written
  // too. places: [pages.size()], filled at once, good for get_run and drop from a completion with kOk on.
  // When the put fails the tier has taken its places back. kOverBudget when the byte budget has no room;
  // kInvalid when the arguments break a rule above or the run is larger than max_run_bytes.
  virtual Status put_run(uint64_t tag, StreamId stream, std::span<const PutPage> pages,
                         std::span<uint8_t> buffer, std::span<Place> places) = 0;

  // Starts to read runs, all of them together; the status of each says whether it has been started. kMiss, in
  // the status or as completion, when a place is stale: its extent has been given to other pages.
  virtual void get_runs(std::span<GetRun> runs) = 0;
  Status get_run(uint64_t tag, std::span<const Place> places, std::span<uint8_t> buffer) {
    GetRun run{tag, places, buffer, {}};
    get_runs({&run, 1});
    return run.status;
  }

  // As IoEngine::poll. It may return 0 early, after work of the tier's own.
  virtual Result<size_t> poll(std::span<Completion> out, Nanoseconds timeout) = 0;

  // Makes the poll that is waiting, or else the next one, return without waiting.
  virtual void wake() = 0;

  // Runs and requests of the tier's own that have not ended.
  virtual size_t pending() const = 0;

  // Frees places whose put completed with kOk, each once. Stale places are ignored.
  virtual void drop(std::span<const Place> places) = 0;

  // How large the stream's next run is best, if its first page has page_bytes: pages and sum of page lengths
  // that still fit where its last run ended, or else that the next stretch of space will hold. Runs that use
  // it up leave least space unused; larger ones go elsewhere. Both 0: there is no room for the page.
  struct Room {
    uint32_t pages = 0;
    uint64_t bytes = 0;
    uint64_t header_bytes = 0;  // that will be written for the next stretch, beside its runs
  };
  virtual Room put_room(StreamId stream, uint32_t page_bytes) const = 0;

  // The largest sum of page lengths of one run.
  virtual uint64_t max_run_bytes() const = 0;

  virtual TierStats stats() const = 0;
  // Memory that the tier holds for its own tables and headers.
  virtual uint64_t table_bytes() const = 0;
  virtual std::string_view name() const = 0;
};

}  // namespace quire
