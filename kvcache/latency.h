// How long things take, in fixed buckets by powers of two, so that recording is one relaxed addition.
//
// Bucket i counts what took less than kFirst << i and is in no bucket before; the last one counts the rest.
// Thread safety: record and read from any thread; a snapshot may tear between buckets, never within one.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvcache/clock.h"

namespace quire {

inline constexpr size_t kLatencyBuckets = 24;

struct LatencySnapshot {
  std::array<uint64_t, kLatencyBuckets> counts{};
  uint64_t nanoseconds = 0;  // sum
};

class LatencyHistogram {
 public:
  static constexpr uint64_t kFirst = 1024;  // nanoseconds; the last bound is 2^33, some 8.6 s

  void record(Nanoseconds took) {
    const uint64_t ns = took.count() > 0 ? static_cast<uint64_t>(took.count()) : 0;
    const auto bucket = static_cast<size_t>(std::bit_width(ns / kFirst));
    counts_[bucket < kLatencyBuckets ? bucket : kLatencyBuckets - 1].fetch_add(1, std::memory_order_relaxed);
    nanoseconds_.fetch_add(ns, std::memory_order_relaxed);
  }

  LatencySnapshot snapshot() const {
    LatencySnapshot out;
    for (size_t i = 0; i < kLatencyBuckets; ++i) out.counts[i] = counts_[i].load(std::memory_order_relaxed);
    out.nanoseconds = nanoseconds_.load(std::memory_order_relaxed);
    return out;
  }

 private:
  std::array<std::atomic<uint64_t>, kLatencyBuckets> counts_{};
  std::atomic<uint64_t> nanoseconds_{0};
};

}  // namespace quire
