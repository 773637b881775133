// Which pages were sealed, attended and freed, in order: what quire-trace replays against eviction policies.
//
// The file, little endian: the characters QUIREACC, u32 version 1, u32 0, u64 events, u64 masses, then the
// events (48 bytes each, as AccessEvent lies in memory) and the masses (f32). Events are kept in memory until
// write(), at most `capacity` of them and 16 times as many masses; what comes after is counted and dropped.
// Users hold a pointer that may be null: recording costs a null check per run of pages when it is off.
// Thread safety: none; the engine holds Residency's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvcache/status.h"

namespace quire {

enum class AccessKind : uint32_t { kSeal = 0, kUse = 1, kFree = 2 };

// A page is named by the stream that sealed it and its index there.
struct AccessEvent {
  uint64_t stream = 0;
  uint64_t step = 0;        // kUse
  uint64_t first_mass = 0;  // kUse: index of the first wanted page's mass; the others follow
  AccessKind kind = AccessKind::kSeal;
  uint32_t layer = 0;
  uint32_t page = 0;      // kUse: the first page of the run
  uint32_t bytes = 0;     // of one page
  uint16_t wanted = 1;    // bit i: page + i was attended
  uint16_t guarded = 0;   // bit i: a sink or a page of the window
  uint16_t has_mass = 0;  // 0: exact attention, every page counts 1
  uint16_t tokens = 0;    // kUse: the sequence's in this step, at most 65535
};
static_assert(sizeof(AccessEvent) == 48);

struct AccessLog {
  std::vector<AccessEvent> events;
  std::vector<float> masses;
};

class AccessTrace {
 public:
  explicit AccessTrace(size_t capacity) : capacity_(capacity) {}

  // mass: of the wanted pages in order, or empty.
  void record(AccessEvent event, std::span<const float> mass);
  uint64_t dropped() const { return dropped_; }
  // Replaces the file. kIo when it cannot be written.
  Status write(const std::string& path) const;

 private:
  size_t capacity_;
  AccessLog log_;
  uint64_t dropped_ = 0;
};

// kIo when the file cannot be read, kInvalid when it is no trace.
Result<AccessLog> read_access_log(const std::string& path);

}  // namespace quire
