// What can go wrong in a simulation, and what the engine may be asked to do when it does: the two sides of
// the table that says which fault has hit during which operation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace quire::testing {

// By what the disk does; see simulated_disk.h. The last two are met by the store's disk alone.
enum class SimFault : uint8_t {
  kReadError,
  kReadShort,
  kReadBitFlip,
  kReadMisdirected,
  kReadLate,
  kReadHung,
  kReadTwice,
  kWriteError,
  kWriteNoSpace,
  kWriteShort,
  kWriteTorn,
  kWriteBitFlip,
  kWriteMisdirected,
  kWriteLost,
  kWriteLate,
  kWriteHung,
  kWriteTwice,
  kClockForwards,
  kClockBackwards,
  kKilled,     // the process ends in the midst of its requests
  kPowerLost,  // so does the machine, and its disk forgets some of what was not synced
};
inline constexpr size_t kSimFaultCount = 21;
inline constexpr size_t kReadFaults = 7;   // the first ones
inline constexpr size_t kDiskFaults = 17;  // reads, then writes

enum class Operation : uint8_t {
  kStep,
  kBatch,
  kReplay,
  kAbandon,
  kFork,
  kTruncate,
  kFree,
  kPrefetch,
  kFlush,
  kRefill,
  kIdle,
  kPublish,
  kAdopt,
  kRestart,
};
inline constexpr size_t kOperationCount = 14;
inline constexpr size_t kStoreOperations = 3;  // the last ones

inline constexpr std::array<std::string_view, kSimFaultCount> kFaultNames{
    "read EIO",          "read short", "read bit flip", "read misdirected", "read late",   "read hung",
    "read twice",        "write EIO",  "write ENOSPC",  "write short",      "write torn",  "write bit flip",
    "write misdirected", "write lost", "write late",    "write hung",       "write twice", "clock forwards",
    "clock backwards",   "killed",     "power lost"};
inline constexpr std::array<std::string_view, kOperationCount> kOperationNames{
    "step",     "batch", "replay", "abandon", "fork",    "truncate", "free",
    "prefetch", "flush", "refill", "idle",    "publish", "adopt",    "restart"};

// How often each fault has hit during each operation.
struct FaultCounts {
  std::array<std::array<uint64_t, kOperationCount>, kSimFaultCount> hits{};

  void add(SimFault fault, Operation operation) {
    ++hits[static_cast<size_t>(fault)][static_cast<size_t>(operation)];
  }
  void add(const FaultCounts& other) {
    for (size_t f = 0; f < kSimFaultCount; ++f) {
      for (size_t o = 0; o < kOperationCount; ++o) hits[f][o] += other.hits[f][o];
    }
  }
  uint64_t sum() const {
    uint64_t all = 0;
    for (const auto& row : hits) {
      for (const uint64_t n : row) all += n;
    }
    return all;
  }
};

}  // namespace quire::testing
