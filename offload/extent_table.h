// Which extents are in use, for which stream, how full, and until when.
//
// An extent is open (its stream appends runs to it), then closed, and free again when no live page is left in
// it and the system writes nothing to it any more. Each use has its own generation; generations only rise, so
// the place of an earlier use is never taken for one of a later use. A stream's extents grow: 128 KiB, 256
// KiB, ... 4 MiB. Thread safety: one thread at a time (NvmeTier's lock).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kvcache/place.h"
#include "kvcache/status.h"
#include "offload/extent_allocator.h"
#include "offload/extent_header.h"
#include "offload/tier.h"

namespace quire {

class ExtentTable {
 public:
  explicit ExtentTable(uint64_t capacity) : allocator_(capacity) {}

  // Finds room for a run and gives its pages their places; a write to the extent is under way from here on.
  // kInvalid when no extent could hold the run, kOverBudget when none is free.
  Status reserve(StreamId stream, std::span<const PutPage> pages, std::span<Place> places);

  // The run is on disk; its pages will be listed in the extent's header.
  void commit(std::span<const PutPage> pages, std::span<const Place> places);
  // Frees the pages. Stale places are ignored.
  void drop(std::span<const Place> places);
  // The system has let go of a write: a run's or a header's.
  void end_write(uint32_t extent);

  // All of the place lies in what was written in the extent's present use.
  bool valid(const Place& place) const;

  // The next closed extent whose header is due; a write to it is under way from here on.
  std::optional<ExtentHeader> take_header();

  Tier::Room room(StreamId stream, uint32_t page_bytes) const;
  uint64_t capacity() const { return allocator_.capacity(); }
  uint64_t used_bytes() const { return allocator_.used(); }
  uint64_t live_bytes() const { return live_bytes_; }
  uint64_t table_bytes() const;

  static uint64_t offset_of(uint32_t extent) { return uint64_t{extent} * kMinExtentBytes; }

 private:
  struct Extent {
    uint32_t bytes = 0;
    uint32_t generation = 0;
    StreamId stream;
    uint32_t filled = kExtentHeaderBytes;  // the next run starts here
    uint32_t pages = 0;                    // that were given places in it
    uint32_t writes = 0;                   // under way
    bool open = true;
    uint64_t live_bytes = 0;
    std::vector<ExtentEntry> entries;  // for the header; empty once it is taken
  };
  // A stream that has extents.
  struct Stream {
    std::optional<uint32_t> open;
    uint32_t extents = 0;
    uint32_t next_bytes = kMinExtentBytes;
  };
  struct HashStream {
    size_t operator()(const StreamId& id) const;
  };

  Result<uint32_t> extent_for(StreamId stream, uint64_t bytes, size_t pages);
  Result<uint32_t> open_extent(StreamId stream, uint64_t bytes, size_t pages);
  void close(uint32_t extent);
  void release_if_idle(uint32_t extent);

  ExtentAllocator allocator_;
  std::unordered_map<uint32_t, Extent> extents_;  // by offset / kMinExtentBytes
  std::unordered_map<StreamId, Stream, HashStream> streams_;
  std::vector<uint32_t> closed_;  // extents without a header yet
  uint32_t next_generation_ = 1;
  uint64_t live_bytes_ = 0;
};

}  // namespace quire
