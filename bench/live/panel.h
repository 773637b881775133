// What a live view shows of a cache: how full its tiers are, how long their requests take, where time goes.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "bench/live/metrics.h"

namespace quire::bench {

struct Budgets {
  uint64_t device = 0;  // bytes; 0: no such tier
  uint64_t host = 0;
  uint64_t nvme = 0;
};

// Two looks at a cache, `seconds` > 0 apart.
struct Interval {
  Metrics before;
  Metrics now;
  double seconds;
};

// Lines of at most 100 columns, each ended.
std::string panel_text(const Interval& interval, const Budgets& budgets);

}  // namespace quire::bench
