// What every part of a cache works with: configuration, kernels, threads and pages. References only.
//
// Thread safety: as of its parts.
#pragma once

#include <atomic>
#include <cstdint>

#include "kvcache/clock.h"
#include "kvcache/config.h"
#include "kvcache/executor.h"
#include "kvcache/residency.h"
#include "kvcache/trace.h"
#include "quant/kernels.h"

namespace quire {

inline constexpr double kMissedUnits = 1 << 30;  // of CacheCounters::missed_units, per share of 1

struct CacheCounters {
  std::atomic<uint64_t> page_hits{0};    // pages attended where they lay in memory
  std::atomic<uint64_t> page_misses{0};  // pages that were read from below
  // Pages attended, once per call: by the CPU where they lie, and on the device; carried: of these, what was
  // in host memory and went up to be attended.
  std::atomic<uint64_t> host_attended_pages{0};
  std::atomic<uint64_t> host_attended_bytes{0};
  std::atomic<uint64_t> device_attended_pages{0};
  std::atomic<uint64_t> device_attended_bytes{0};
  std::atomic<uint64_t> carried_pages{0};
  std::atomic<uint64_t> carried_bytes{0};
  std::atomic<uint64_t> encode_nanoseconds{0};  // busy time over all threads
  std::atomic<uint64_t> attend_nanoseconds{0};
  std::atomic<uint64_t> wait_nanoseconds{0};  // attention stood still for reads
  // Of selective attention: pages per tile and kv head, and the shares of mass that rows missed.
  std::atomic<uint64_t> pages_chosen{0};
  std::atomic<uint64_t> pages_skipped{0};
  std::atomic<uint64_t> selected_rows{0};
  std::atomic<uint64_t> missed_units{0};
  std::atomic<uint64_t> select_nanoseconds{0};
  // Of choose_ahead: sections whose reads it started, and those that were attended.
  std::atomic<uint64_t> foreseen_sections{0};
  std::atomic<uint64_t> foreseen_sections_used{0};
};

// Adds the time between its construction and its destruction to a counter.
class BusyTime {
 public:
  BusyTime(const Clock& clock, std::atomic<uint64_t>& nanoseconds)
      : clock_(clock), nanoseconds_(nanoseconds), start_(clock.now()) {}
  ~BusyTime() {
    nanoseconds_.fetch_add(static_cast<uint64_t>((clock_.now() - start_).count()), std::memory_order_relaxed);
  }
  BusyTime(const BusyTime&) = delete;
  BusyTime& operator=(const BusyTime&) = delete;

 private:
  const Clock& clock_;
  std::atomic<uint64_t>& nanoseconds_;
  Nanoseconds start_;
};

struct CacheContext {
  const CacheConfig& config;
  const Kernels& kernels;
  Residency& residency;
  Budget& host_budget;
  Executor& executor;
  const Clock& clock;
  CacheCounters& counters;
  Trace* trace;      // may be null
  float* seal_work;  // [threads][page_tokens][head_dim], null without digests
};

inline bool in_rotated_space(CodecId codec) { return find_codec(codec)->space == CodecSpace::kRotated; }

}  // namespace quire
