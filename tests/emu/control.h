// What a test sets and asks of the emulator. Kernels see nothing of it.
//
// Thread safety: settings are changed while no device work runs; the counters may be read at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emu {

// Which thread of a block runs next where several can. A correct kernel gives the same results under all.
enum class Schedule : uint8_t {
  kInOrder,
  kReverse,  // threads and blocks from the last to the first
  kRandom,   // by seed
  kGreedy,   // by seed one warp goes ahead as far as it can: finds forgotten barriers that kRandom does not
};

struct Settings {
  Schedule schedule = Schedule::kInOrder;
  uint64_t seed = 1;
  // Streams run nothing before the host synchronizes, and then no more than that needs, so that a forgotten
  // event or synchronization gives stale data every time. Otherwise work runs when it is given.
  bool lazy_streams = true;
  int devices = 1;
  int capability = 8;                     // the major number: 8, or 9 for what needs that
  size_t device_bytes = size_t{8} << 30;  // more is out of memory
  size_t pinned_bytes = size_t{8} << 30;  // of host memory; pinning more is refused
};

Settings& settings();

// What went wrong in the first kernel that failed: block, thread and reason; empty when none did.
const std::string& last_failure();

// Forgets failures, sticky errors included, which on a real device only a new process does.
void reset_errors();

// Makes the next runtime call that can report errors of device work return a sticky one, as a device that
// was lost does.
void lose_device();

struct Counters {
  uint64_t launches;
  uint64_t switches;      // between fibers
  uint64_t allocations;   // alive
  uint64_t device_bytes;  // alive
  uint64_t waits;         // for a stream, by the host
  uint64_t pinnings;      // of host memory, ever
  uint64_t pinned_bytes;  // alive
};
Counters counters();

}  // namespace emu
