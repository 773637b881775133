#include "offload/read_plan.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(ReadPlan, NothingToRead) { EXPECT_TRUE(plan_runs({}, kMiB).empty()); }

TEST(ReadPlan, NeighboursBecomeOneAlignedRead) {
  const std::vector<Place> places{{4096, 640, 0, 1}, {4736, 640, 0, 1}, {5376, 4096, 0, 1}};
  EXPECT_EQ(plan_runs(places, kMiB), (std::vector<ReadRun>{{0, 3, 4096, 8192}}));
}

TEST(ReadPlan, APlaceInsideABlockIsReadWithItsBlock) {
  const std::vector<Place> places{{4736, 640, 0, 1}};
  EXPECT_EQ(plan_runs(places, kMiB), (std::vector<ReadRun>{{0, 1, 4096, 4096}}));
}

TEST(ReadPlan, PaddingBetweenRunsIsReadThrough) {
  const std::vector<Place> places{{4096, 640, 0, 1}, {8192, 640, 0, 1}};
  EXPECT_EQ(plan_runs(places, kMiB), (std::vector<ReadRun>{{0, 2, 4096, 8192}}));
}

TEST(ReadPlan, HolesOtherExtentsAndSteppingBackEndARead) {
  const std::vector<Place> places{{4096, 4096, 0, 1},
                                  {12288, 4096, 0, 1},   // a block between them
                                  {135168, 4096, 1, 2},  // another extent
                                  {139264, 4096, 1, 3},  // another use of it
                                  {4096, 4096, 0, 1}};
  EXPECT_EQ(plan_runs(places, kMiB), (std::vector<ReadRun>{{0, 1, 4096, 4096},
                                                           {1, 1, 12288, 4096},
                                                           {2, 1, 135168, 4096},
                                                           {3, 1, 139264, 4096},
                                                           {4, 1, 4096, 4096}}));
}

TEST(ReadPlan, ReadsAreNoLargerThanAsked) {
  std::vector<Place> places;
  for (uint64_t i = 0; i < 10; ++i) places.push_back({4096 + i * 3072, 3072, 0, 1});
  // Four pages end at 4096 + 12288, five need a block more than 12 KiB.
  const auto runs = plan_runs(places, 12288);
  size_t next = 0;
  for (const ReadRun& run : runs) {
    EXPECT_EQ(run.first, next);
    EXPECT_LE(run.bytes, 12288U);
    next += run.count;
  }
  EXPECT_EQ(next, places.size());
  EXPECT_EQ(runs[0], (ReadRun{0, 4, 4096, 12288}));
}

TEST(ReadPlan, APlaceLargerThanAskedIsReadAlone) {
  const std::vector<Place> places{{4096, 640, 0, 1}, {4736, 65536, 0, 1}, {70272, 640, 0, 1}};
  const auto runs = plan_runs(places, 8192);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[1], (ReadRun{1, 1, 4096, 69632}));
}

}  // namespace
}  // namespace quire
