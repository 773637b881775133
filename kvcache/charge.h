// Bytes charged to a budget for as long as this lives, for memory that somebody else allocates. The budget
// outlives it. Thread safety: as of its parts.
#pragma once

#include "kvcache/budget.h"

namespace quire {

class Charge {
 public:
  Charge() = default;
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;
  ~Charge() {
    if (budget_ != nullptr) budget_->release(Use::kWork, bytes_);
  }
  // kOverBudget when it is refused. At most one that is granted.
  Status take(Budget& budget, uint64_t bytes) {
    if (!budget.try_reserve(Use::kWork, bytes)) return budget.refusal(Use::kWork, bytes);
    budget_ = &budget;
    bytes_ = bytes;
    return {};
  }

 private:
  Budget* budget_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace quire
