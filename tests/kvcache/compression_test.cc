// A whole engine that compresses its pages on disk: the very bits of one that does not, whatever the disk
// does; fewer bytes written where the codec's pages shrink, and next to no work where they do not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "tests/offload/faulty_engine.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

World compressing_world(CodecId codec, uint32_t level) {
  World world;
  world.key_codec = world.value_codec = codec;
  world.head_dim = 32;
  world.host_budget = uint64_t{3} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.nvme_compression = level;
  world.max_step_tokens = 64;
  return world;
}

struct Story {
  Output output;
  uint64_t demoted = 0, stored = 0, compressed = 0, tried = 0, expanded = 0, written = 0;
};

// Down to disk with all of it, and up again. A disk that fails now and then takes several flushes.
Story run_story(const World& world, uint64_t count, int flushes = 1) {
  const auto engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  Story story;
  story.output = run_chunks(*engine, world, sequence, 0, count, 64);
  EXPECT_TRUE(story.output.status.ok()) << story.output.status.message();
  Status flushed = engine->mover()->flush();
  for (int i = 1; i < flushes && !flushed.ok(); ++i) flushed = engine->mover()->flush();
  EXPECT_TRUE(flushed.ok()) << flushed.message();
  story.output.extend(run_chunks(*engine, world, sequence, count, 128, 64));
  EXPECT_TRUE(story.output.status.ok()) << story.output.status.message();
  const MoverCounts& counts = engine->mover()->counts();
  story.demoted = counts.demoted_bytes;
  story.stored = counts.stored_bytes;
  story.compressed = counts.compressed_pages;
  story.tried = counts.tried_bytes;
  const auto expansions = counts.expansions.snapshot().counts;
  story.expanded = std::accumulate(expansions.begin(), expansions.end(), uint64_t{0});
  story.written = engine->mover()->tier_stats().written_bytes;
  return story;
}

class CompressingEngine : public ::testing::TestWithParam<CodecId> {};

TEST_P(CompressingEngine, HasTheBitsOfOneThatDoesNot) {
  const bool wide = find_codec(GetParam())->bits >= 16;
  const uint64_t count = wide ? 2400 : 3200;
  const Story plain = run_story(compressing_world(GetParam(), 0), count);
  const Story packed = run_story(compressing_world(GetParam(), 1), count);
  EXPECT_EQ(packed.output.out, plain.output.out);
  EXPECT_EQ(packed.output.lse, plain.output.lse);
  EXPECT_EQ(plain.stored, plain.demoted);
  EXPECT_EQ(plain.compressed + plain.tried + plain.expanded, 0U);
  ASSERT_GT(packed.demoted, 0U);
  EXPECT_GT(packed.tried, 0U);
  // Made-up keys and values have no more than noise in the low bytes of f32.
  if (GetParam() == CodecId::kBf16) {
    EXPECT_GT(packed.compressed, 10U);
    EXPECT_GT(packed.expanded, 0U);
    EXPECT_LT(packed.stored, packed.demoted);
  }
  if (find_codec(GetParam())->family == CodecFamily::kTrellis) {
    EXPECT_EQ(packed.stored, packed.demoted);
    EXPECT_LT(packed.tried, packed.demoted / 4);
  }
  std::printf("[counts] cases=%zu\n", plain.output.out.size() * count);
}

INSTANTIATE_TEST_SUITE_P(Codecs, CompressingEngine,
                         ::testing::Values(CodecId::kF32, CodecId::kBf16, CodecId::kInt8, CodecId::kRot4,
                                           CodecId::kTcq4, CodecId::kNuq4),
                         [](const auto& test) { return std::string(find_codec(test.param)->name); });

class CompressingOnABadDisk : public ::testing::TestWithParam<Fault> {};

TEST_P(CompressingOnABadDisk, CostsTimeNeverAnAnswer) {
  World world = compressing_world(CodecId::kBf16, 1);
  const Story clean = run_story(world, 2400);
  const auto plan = std::make_shared<FaultPlan>(11);
  // Every other of the first operations: how many there are depends on how many pages one of them carries.
  constexpr uint32_t kSureHits = 2;
  for (const IoKind kind : {IoKind::kRead, IoKind::kWrite}) {
    if (!possible(GetParam(), kind)) continue;
    for (uint32_t i = 0; i < kSureHits; ++i) plan->add({GetParam(), kind, 1 + i, 1});
  }
  plan->hit_by_chance(GetParam() == Fault::kDelay ? 30 : 100, {GetParam()});
  plan->set_overdue(std::chrono::milliseconds(5));
  world.open_io = faulty_engine_factory(plan);
  // A busy machine may leave no page to write early, and only what nobody waits for is compressed: so are the
  // pages of a flush.
  const Story story = run_story(world, 2400, 20);
  EXPECT_EQ(story.output.out, clean.output.out);
  EXPECT_EQ(story.output.lse, clean.output.lse);
  EXPECT_GE(plan->hits(), kSureHits);
  EXPECT_GT(story.compressed, 0U);
  std::printf("[counts] cases=1 faults=%llu\n", static_cast<unsigned long long>(plan->hits()));
}

INSTANTIATE_TEST_SUITE_P(Faults, CompressingOnABadDisk,
                         ::testing::Values(Fault::kEio, Fault::kShort, Fault::kTorn, Fault::kBitFlip,
                                           Fault::kMisdirected, Fault::kDelay, Fault::kDuplicate),
                         [](const auto& test) {
                           std::string name(fault_name(test.param));
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

// What the compressor and the room to expand pages take is part of host_budget.
TEST(CompressingEngines, MemoryIsCharged) {
  const auto staging = [](uint32_t level) {
    const auto engine = open_engine(compressing_world(CodecId::kBf16, level));
    return engine->host_budget().used(Use::kStaging);
  };
  EXPECT_GT(staging(1), staging(0));
}

}  // namespace
}  // namespace quire::testing
