// Attention over a disk that fails in every way there is: the output has the very bits of a clean run,
// because what cannot be proven is a miss, and a miss is refilled.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <span>

#include "tests/offload/faulty_engine.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

constexpr uint32_t kSureHits = 6;

World small_world() {
  World world;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.head_dim = 32;
  world.host_budget = uint64_t{2} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 64;
  return world;
}

Output run_whole(const World& world, std::unique_ptr<Engine>* engine, uint64_t count = 2400) {
  *engine = open_engine(world);
  Sequence* sequence = *(*engine)->cache().create_sequence();
  return run_chunks(**engine, world, sequence, 0, count, 64);
}

const Output& clean_output() {
  static const Output output = [] {
    std::unique_ptr<Engine> engine;
    return run_whole(small_world(), &engine);
  }();
  return output;
}

struct FaultCase {
  Fault fault;
  IoKind kind;
};

class FaultyDisk : public ::testing::TestWithParam<FaultCase> {};

TEST_P(FaultyDisk, CostsTimeNeverAnAnswer) {
  World world = small_world();
  std::unique_ptr<Engine> engine;
  const Output& clean = clean_output();
  ASSERT_TRUE(clean.status.ok()) << clean.status.message();

  const auto [fault, kind] = GetParam();
  const auto plan = std::make_shared<FaultPlan>(7);
  // Every other of the first operations, and then by chance. Four late writes in a row are a disk that hangs;
  // and a disk that is full is written to only when room is needed, so that a run may have no more than a
  // dozen writes.
  for (uint32_t i = 0; i < kSureHits; ++i) plan->add({fault, kind, 2 + 2 * i, 1});
  plan->hit_by_chance(fault == Fault::kDelay ? 40 : 150, {fault});
  plan->set_overdue(std::chrono::milliseconds(5));
  world.open_io = faulty_engine_factory(plan);
  const uint64_t refills = count_refills();
  const Output output = run_whole(world, &engine);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  EXPECT_EQ(output.out, clean.out);
  EXPECT_EQ(output.lse, clean.lse);
  EXPECT_GE(plan->hits(fault, kind), kSureHits);
  const bool harms_reads = kind == IoKind::kRead && fault != Fault::kDuplicate;
  if (harms_reads) {
    EXPECT_GT(count_refills(), refills);
  }
  engine.reset();
  std::printf("[counts] cases=1 faults=%llu\n", static_cast<unsigned long long>(plan->hits()));
}

std::vector<FaultCase> all_faults() {
  std::vector<FaultCase> cases;
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    for (const IoKind kind : {IoKind::kRead, IoKind::kWrite}) {
      if (possible(static_cast<Fault>(fault), kind)) cases.push_back({static_cast<Fault>(fault), kind});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllFaults, FaultyDisk, ::testing::ValuesIn(all_faults()), [](const auto& test) {
  std::string name(fault_name(test.param.fault));
  std::replace(name.begin(), name.end(), ' ', '_');
  return name + (test.param.kind == IoKind::kRead ? "Read" : "Write");
});

// Late reads keep their staging memory until the system lets go of it: all of it, when every read is late.
TEST(SlowDisk, StagingMemoryThatItHoldsIsWaitedFor) {
  const Output& clean = clean_output();
  World world = small_world();
  const auto plan = std::make_shared<FaultPlan>(7);
  plan->add({Fault::kDelay, IoKind::kRead, 0, 8});
  plan->set_overdue(std::chrono::milliseconds(5));
  plan->set_late(std::chrono::milliseconds(250));
  world.open_io = faulty_engine_factory(plan);
  std::unique_ptr<Engine> engine;
  const Output output = run_whole(world, &engine, 1700);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    EXPECT_TRUE(std::equal(output.out[layer].begin(), output.out[layer].end(), clean.out[layer].begin()));
  }
  EXPECT_GT(plan->hits(Fault::kDelay, IoKind::kRead), 0U);
  std::printf("[counts] cases=1 faults=%llu\n", static_cast<unsigned long long>(plan->hits()));
}

// Time that passes with requests that hang alone, a deadline with each: a request that is merely slow has all
// the time that it needs.
class TimeOfHangs final : public Clock {
 public:
  TimeOfHangs(std::shared_ptr<const FaultPlan> plan, IoKind kind, Nanoseconds deadline)
      : plan_(std::move(plan)), kind_(kind), deadline_(deadline) {}
  Nanoseconds now() const override { return deadline_ * plan_->hits(Fault::kDelay, kind_); }

 private:
  const std::shared_ptr<const FaultPlan> plan_;
  const IoKind kind_;
  const Nanoseconds deadline_;
};

// Requests that never come back: the engine says so, within a few deadlines.
TEST(SlowDisk, OneThatHangsIsReported) {
  for (const IoKind kind : {IoKind::kRead, IoKind::kWrite}) {
    World world = small_world();
    const auto plan = std::make_shared<FaultPlan>(7);
    plan->add({Fault::kDelay, kind, 4, UINT32_MAX});
    plan->set_late(std::chrono::hours(24));
    world.io_deadline = std::chrono::milliseconds(200);
    const TimeOfHangs clock(plan, kind, world.io_deadline);
    world.clock = &clock;
    world.open_io = faulty_engine_factory(plan);
    std::unique_ptr<Engine> engine;
    const Output output = run_whole(world, &engine);
    EXPECT_EQ(output.status.code(), StatusCode::kDeadline) << output.status.message();
    EXPECT_NE(output.status.message().find("disk"), std::string::npos) << output.status.message();
    EXPECT_GT(plan->hits(Fault::kDelay, kind), 0U);
    std::printf("[counts] cases=1 faults=%llu\n", static_cast<unsigned long long>(plan->hits()));
  }
}

TEST(FaultyDiskForGood, AWriteThatAlwaysFailsIsReportedOnceMemoryIsFull) {
  World world = small_world();
  const auto plan = std::make_shared<FaultPlan>(7);
  plan->add({Fault::kEio, IoKind::kWrite, 0, UINT32_MAX});
  world.open_io = faulty_engine_factory(plan);
  std::unique_ptr<Engine> engine;
  const Output output = run_whole(world, &engine);
  EXPECT_EQ(output.status.code(), StatusCode::kIo);
  EXPECT_NE(output.status.message().find("disk"), std::string::npos) << output.status.message();
}

TEST(FaultyDiskForGood, AReadThatAlwaysFailsStillEnds) {
  World world = small_world();
  std::unique_ptr<Engine> engine;
  const Output& clean = clean_output();
  const auto plan = std::make_shared<FaultPlan>(7);
  plan->add({Fault::kEio, IoKind::kRead, 0, UINT32_MAX});
  world.open_io = faulty_engine_factory(plan);
  // Every page that left memory is lost again on every step: few tokens do.
  const Output output = run_whole(world, &engine, 1700);
  // Either every page could be kept in memory once refilled, or the status says what happened; never wrong
  // bits.
  if (output.status.ok()) {
    for (uint32_t layer = 0; layer < world.layers; ++layer) {
      EXPECT_TRUE(std::equal(output.out[layer].begin(), output.out[layer].end(), clean.out[layer].begin()));
    }
  }
  EXPECT_GT(plan->hits(), 0U);
}

TEST(FullDisk, TheBudgetHoldsAndSaysSo) {
  World world = small_world();
  world.nvme_budget = uint64_t{256} << 10;
  std::unique_ptr<Engine> engine;
  const Output output = run_whole(world, &engine);
  EXPECT_EQ(output.status.code(), StatusCode::kOverBudget);
  EXPECT_LE(engine->mover()->tier_stats().used_bytes, world.nvme_budget);
}

// Lost pages leave holes in extents, which are no room: pages that are made again stay in memory until that
// is full. A sequence that cannot go on costs nothing but itself.
TEST(FullDisk, WhenHolesFillItTheNextSequenceHasAllOfIt) {
  constexpr uint64_t kFitting = 1408;
  World world = small_world();
  world.nvme_budget = uint64_t{512} << 10;
  world.one_thread = true;
  const auto plan = std::make_shared<FaultPlan>(7);
  world.open_io = faulty_engine_factory(plan);
  const std::unique_ptr<Engine> engine = open_engine(world);
  Cache& cache = engine->cache();
  Sequence* sequence = *cache.create_sequence();
  Output output = run_chunks(*engine, world, sequence, 0, kFitting, 64);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  plan->hit_by_chance(300, {Fault::kBitFlip}, IoKind::kRead);
  for (uint64_t at = kFitting; at < kFitting + 200 && output.status.ok(); ++at) {
    output = run_step(*engine, world, sequence, at, 1);
  }
  EXPECT_EQ(output.status.code(), StatusCode::kOverBudget) << output.status.message();
  const TierStats full = engine->mover()->tier_stats();
  EXPECT_LT(full.live_bytes, full.used_bytes / 2);
  plan->clear();
  ASSERT_TRUE(cache.free(sequence).ok());
  sequence = *cache.create_sequence();
  output = run_chunks(*engine, world, sequence, 0, kFitting, 64);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    EXPECT_TRUE(std::ranges::equal(output.out[layer],
                                   std::span(clean_output().out[layer]).first(output.out[layer].size())));
  }
}

}  // namespace
}  // namespace quire::testing
