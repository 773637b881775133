#include "kvcache/policy.h"

namespace quire {
namespace {

// The newest run of one table, or count 0.
Victims newest_run(const TableSnapshot& table, PageState wanted, uint32_t max_pages) {
  Victims run;
  size_t end = table.states.size();
  while (end > 0 && table.states[end - 1] != wanted) --end;
  size_t begin = end;
  while (begin > 0 && table.states[begin - 1] == wanted && end - begin < max_pages) --begin;
  run.first = table.first + static_cast<uint32_t>(begin);
  run.count = static_cast<uint32_t>(end - begin);
  return run;
}

}  // namespace

Victims choose_victims(std::span<const TableSnapshot> tables, PageState wanted, uint32_t max_pages) {
  Victims best;
  uint64_t best_used = 0;
  for (uint32_t i = 0; i < tables.size(); ++i) {
    Victims run = newest_run(tables[i], wanted, max_pages);
    if (run.count == 0) continue;
    run.table = i;
    const bool older = tables[i].last_used < best_used;
    const bool same_age = tables[i].last_used == best_used;
    if (best.count == 0 || older || (same_age && run.first + run.count > best.first + best.count)) {
      best = run;
      best_used = tables[i].last_used;
    }
  }
  return best;
}

}  // namespace quire
