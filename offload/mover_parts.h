// What the files of the mover share: mover.cc has its life and the making of room, mover_loads.cc what comes
// up from disk, mover_writes.cc what goes down. Included by these alone. Thread safety: see mover.h.
#pragma once

#include "offload/mover.h"

namespace quire {

inline constexpr uint64_t kWriteTag = uint64_t{1} << 63;
inline constexpr Nanoseconds kIdlePoll = std::chrono::seconds(1);  // wake cuts it short
inline constexpr Nanoseconds kForever = Nanoseconds::max();
inline constexpr uint32_t kReadBits = 16;  // of a tag: which read of its load
// Loads under way at most, however small they are: as many runs as attention holds.
inline constexpr uint32_t kMostLoads = 64;
inline constexpr const char* kHung =
    "the disk does not answer: late requests still have all the staging memory";

// Memory counts as short when less than this share of the host budget is free: pages are then copied down
// early.
inline bool memory_is_short(const Budget& budget) { return budget.available() < budget.limit() / 4; }

struct Mover::Load {
  enum class State : uint8_t { kFree, kQueued, kReading, kDone };
  State state = State::kFree;
  bool held = false;  // between begin_load and end_load
  uint32_t count = 0;
  size_t memory = 0;  // where its part of the staging memory begins
  size_t memory_bytes = 0;
  LoadPlan plan;               // of what is read, from `memory` on; expanded pages lie behind
  uint32_t reads_left = 0;     // requests that have not ended
  uint32_t releases_left = 0;  // of expired ones, whose buffer the system may still touch
  std::array<Page*, kRunPages> pages{};
  std::array<const uint8_t*, kRunPages> bytes{};
  std::array<uint32_t, kRunPages> unproven{};  // pieces of each page that have not been proven
  uint32_t partial = 0;                        // bit i: of page i only some heads are read
  uint32_t failed = 0;                         // bit i: a piece of page i was not what it should be
  Nanoseconds start{};

  bool is_late() const { return !held && releases_left > 0; }
  bool is_free() const { return !held && releases_left == 0 && state == State::kFree; }
};

struct Mover::Write {
  bool busy = false;
  std::vector<Page*> pages;
  std::vector<Place> places;
  std::vector<PutPage> put;  // those of `pages` that are in the buffer
  size_t used = 0;           // bytes of it
  Nanoseconds start{};
};

// Waits until `done`; false when that takes longer than `limit`. The lock is let go meanwhile.
template <typename Done>
bool Mover::wait_until(ResidencyLock& lock, std::condition_variable& changed, Nanoseconds limit,
                       Done&& done) {
  if (drive_ == MoverDrive::kThread) {
    if (limit != kForever) return changed.wait_for(lock, limit, done);
    changed.wait(lock, done);
    return true;
  }
  const Nanoseconds start = context_.clock.now();
  while (!done()) {
    if (context_.clock.now() - start >= limit) return false;
    lock.unlock();
    turn(kIdlePoll);
    lock.lock();
  }
  return true;
}

}  // namespace quire
