// How many bytes may be written to a disk per day, as a token bucket, so that a cache does not wear it out.
//
// The bucket holds an hour's share, but at least one large write, and starts full: in any day at most that
// share more than the limit is written. Time is passed in; when it goes backwards nothing is refilled until
// it has caught up. Everything of a cache that writes shares one bucket: the spill file and the store. Thread
// safety: WriteBudget is a value that one thread at a time may touch, SharedWriteBudget may be used by any.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>

#include "kvcache/clock.h"

namespace quire {

class WriteBudget {
 public:
  // bytes_per_day: 0 for no limit. least: bytes that the bucket holds at least.
  WriteBudget(uint64_t bytes_per_day, uint64_t least, Nanoseconds now)
      : per_day_(bytes_per_day), most_(std::max(bytes_per_day / 24, least)), tokens_(most_), filled_(now) {}

  bool limited() const { return per_day_ != 0; }

  // What may be written now; UINT64_MAX without a limit.
  uint64_t available(Nanoseconds now) {
    if (!limited()) return UINT64_MAX;
    constexpr double kDay = 86400e9;
    if (now > filled_) {
      const double gained =
          static_cast<double>((now - filled_).count()) / kDay * static_cast<double>(per_day_);
      // Less than a byte waits for the next call.
      if (gained >= 1) {
        tokens_ =
            gained >= static_cast<double>(most_ - tokens_) ? most_ : tokens_ + static_cast<uint64_t>(gained);
        filled_ = now;
      }
    }
    return tokens_;
  }

  // At most what available() said.
  void take(uint64_t bytes) { tokens_ -= std::min(tokens_, limited() ? bytes : 0); }
  // Of what was taken: bytes that were not written after all.
  void give_back(uint64_t bytes) { tokens_ = std::min(most_, tokens_ + (limited() ? bytes : 0)); }

 private:
  uint64_t per_day_;
  uint64_t most_;
  uint64_t tokens_;
  Nanoseconds filled_;
};

class SharedWriteBudget {
 public:
  explicit SharedWriteBudget(const WriteBudget& budget) : budget_(budget) {}

  // Between looking at what is there and taking it nobody else does.
  class Access {
   public:
    WriteBudget* operator->() const { return budget_; }

   private:
    friend class SharedWriteBudget;
    Access(std::mutex& mutex, WriteBudget& budget) : lock_(mutex), budget_(&budget) {}
    std::unique_lock<std::mutex> lock_;
    WriteBudget* budget_;
  };
  Access access() { return {mutex_, budget_}; }

  // For what need not be written: takes the bytes when they are at most half of what is there, so that those
  // who need room find the rest.
  bool take_of_half(uint64_t bytes, Nanoseconds now) {
    const Access budget = access();
    if (bytes > budget->available(now) / 2) return false;
    budget->take(bytes);
    return true;
  }

 private:
  std::mutex mutex_;
  WriteBudget budget_;
};

}  // namespace quire
