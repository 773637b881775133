#include "offload/read_plan.h"

namespace quire {
namespace {

bool follows(const Place& before, const Place& after, uint64_t gap) {
  const uint64_t end = before.offset + before.length;
  return after.extent == before.extent && after.generation == before.generation && after.offset >= end &&
         after.offset - end < gap;
}

}  // namespace

std::vector<ReadRun> plan_runs(std::span<const Place> places, uint64_t max_bytes, uint64_t gap) {
  std::vector<ReadRun> runs;
  for (size_t i = 0; i < places.size(); ++i) {
    const uint64_t end = run_align_up(places[i].offset + places[i].length);
    if (i > 0 && follows(places[i - 1], places[i], gap) && end - runs.back().offset <= max_bytes) {
      ++runs.back().count;
      runs.back().bytes = end - runs.back().offset;
    } else {
      const uint64_t offset = run_align_down(places[i].offset);
      runs.push_back({i, 1, offset, end - offset});
    }
  }
  return runs;
}

}  // namespace quire
