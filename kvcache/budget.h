// A hard limit on bytes, and memory that is charged to it.
//
// Invariants: the sum of all reservations never exceeds the limit, not even for a moment; used() is the sum
// of used(use) whenever nobody is reserving or releasing. Thread safety: every function of Budget may be
// called from any thread (lock-free). BudgetedBytes is a value that one thread at a time may touch.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvcache/status.h"

namespace quire {

// What the bytes are for; statistics report them apart.
enum class Use : uint8_t {
  kPages,    // slots of sealed pages
  kTails,    // unsealed tokens and sinks
  kTables,   // page tables, digests, layer params
  kStaging,  // slots that pages pass through on their way from a lower tier
  kWork,     // scratch of kernels and partials
};
inline constexpr size_t kUseCount = 5;

std::string_view use_name(Use use);

class Budget {
 public:
  explicit Budget(uint64_t limit) : limit_(limit) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // False, and nothing is reserved, when the limit does not allow it.
  [[nodiscard]] bool try_reserve(Use use, uint64_t bytes);
  // Gives back what try_reserve granted for the same use, whole or in parts.
  void release(Use use, uint64_t bytes);

  uint64_t limit() const { return limit_; }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  uint64_t used(Use use) const { return by_use_[static_cast<size_t>(use)].load(std::memory_order_relaxed); }
  uint64_t available() const { return limit_ - used(); }
  // The largest used() so far.
  uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }

  // kOverBudget in one sentence: `bytes` for `use` were refused.
  Status refusal(Use use, uint64_t bytes) const;

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_{0};
  std::atomic<uint64_t> peak_{0};
  std::array<std::atomic<uint64_t>, kUseCount> by_use_{};
};

// A zeroed buffer, aligned to a page of the operating system and charged to a budget in whole such pages. The
// budget must outlive it.
class BudgetedBytes {
 public:
  // kOverBudget when the budget or the system refuses. bytes = 0 gives an empty buffer that costs nothing.
  static Result<BudgetedBytes> allocate(Budget& budget, Use use, size_t bytes);

  BudgetedBytes() = default;
  BudgetedBytes(BudgetedBytes&& other) noexcept;
  BudgetedBytes& operator=(BudgetedBytes&& other) noexcept;
  ~BudgetedBytes() { reset(); }

  // Frees the memory and what it was charged; empty afterwards.
  void reset();

  uint8_t* data() const { return data_; }  // nullptr when empty
  size_t size() const { return size_; }    // as asked for
  size_t charged() const;                  // size() in whole pages of the operating system

 private:
  BudgetedBytes(Budget* budget, Use use, uint8_t* data, size_t size)
      : budget_(budget), use_(use), data_(data), size_(size) {}

  Budget* budget_ = nullptr;
  Use use_ = Use::kWork;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace quire
