#include "kvcache/budget.h"

#include <cassert>
#include <string>
#include <utility>

#include "kvcache/os_memory.h"

namespace quire {

std::string_view use_name(Use use) {
  switch (use) {
    case Use::kPages:
      return "pages";
    case Use::kTails:
      return "tails";
    case Use::kTables:
      return "tables";
    case Use::kStaging:
      return "staging";
    case Use::kWork:
      return "work space";
  }
  return "unknown use";
}

bool Budget::try_reserve(Use use, uint64_t bytes) {
  uint64_t used = used_.load(std::memory_order_relaxed);
  do {
    if (bytes > limit_ - used) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  by_use_[static_cast<size_t>(use)].fetch_add(bytes, std::memory_order_relaxed);

  const uint64_t reached = used + bytes;
  uint64_t peak = peak_.load(std::memory_order_relaxed);
  while (peak < reached && !peak_.compare_exchange_weak(peak, reached, std::memory_order_relaxed)) {
  }
  return true;
}

void Budget::release(Use use, uint64_t bytes) {
  [[maybe_unused]] const uint64_t of_use =
      by_use_[static_cast<size_t>(use)].fetch_sub(bytes, std::memory_order_relaxed);
  assert(of_use >= bytes);
  used_.fetch_sub(bytes, std::memory_order_relaxed);
}

Status Budget::refusal(Use use, uint64_t bytes) const {
  return {StatusCode::kOverBudget, std::to_string(bytes) + " bytes for " + std::string(use_name(use)) +
                                       " do not fit: " + std::to_string(used()) + " of a budget of " +
                                       std::to_string(limit_) +
                                       " bytes are in use; raise the budget or free sequences"};
}

Result<BudgetedBytes> BudgetedBytes::allocate(Budget& budget, Use use, size_t bytes) {
  if (bytes == 0) return BudgetedBytes();
  const size_t mapped = round_to_os_pages(bytes);
  if (mapped < bytes || !budget.try_reserve(use, mapped)) return budget.refusal(use, bytes);
  uint8_t* data = map_os_pages(mapped);
  if (data == nullptr) {
    budget.release(use, mapped);
    return Status(StatusCode::kOverBudget,
                  "the system has no " + std::to_string(mapped) + " bytes for " + std::string(use_name(use)) +
                      " although the budget allows them; lower the budget to what the machine has");
  }
  return BudgetedBytes(&budget, use, data, bytes);
}

BudgetedBytes::BudgetedBytes(BudgetedBytes&& other) noexcept
    : budget_(other.budget_),
      use_(other.use_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

BudgetedBytes& BudgetedBytes::operator=(BudgetedBytes&& other) noexcept {
  if (this == &other) return *this;
  reset();
  budget_ = other.budget_;
  use_ = other.use_;
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void BudgetedBytes::reset() {
  if (data_ == nullptr) return;
  unmap_os_pages(data_, charged());
  budget_->release(use_, charged());
  data_ = nullptr;
  size_ = 0;
}

size_t BudgetedBytes::charged() const { return size_ == 0 ? 0 : round_to_os_pages(size_); }

}  // namespace quire
