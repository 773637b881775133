// A whole engine under nvme_write_budget_per_day, on a clock that the test moves.
#include <gtest/gtest.h>

#include "tests/offload/support.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

World spilling_world() {
  World world;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.head_dim = 32;
  world.host_budget = uint64_t{2} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 64;
  return world;
}

TEST(WriteBudgetOfAnEngine, IsKeptAndComesBackWithTime) {
  const World world = spilling_world();
  StepClock clock;
  EngineOptions options = engine_options(world);
  options.clock = &clock;
  options.nvme_write_budget_per_day = uint64_t{12} << 20;  // an hour's share: half a MiB
  auto opened = Engine::open(std::move(options));
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  Engine& engine = **opened;
  Sequence* sequence = *engine.cache().create_sequence();
  const Output output = run_chunks(engine, world, sequence, 0, 6400, 64);
  EXPECT_EQ(output.status.code(), StatusCode::kOverBudget);
  EXPECT_NE(output.status.message().find("nvme_write_budget_per_day"), std::string::npos)
      << output.status.message();
  const uint64_t share = (uint64_t{12} << 20) / 24;
  const uint64_t before = engine.mover()->tier_stats().written_bytes;
  EXPECT_GT(before, share / 2);
  EXPECT_LE(before, share + share / 20) << "headers of extents come on top";

  clock.advance(std::chrono::hours(1));
  const uint64_t length = engine.cache().length(sequence);
  EXPECT_TRUE(run_chunks(engine, world, sequence, length, 64, 64).status.ok());
  EXPECT_GT(engine.mover()->tier_stats().written_bytes, before);
}

TEST(WriteAmplification, IsAFewPercentAtMost) {
  World world = spilling_world();
  world.host_budget = uint64_t{6} << 20;
  const auto engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, 8000, 64).status.ok());
  const uint64_t pages = engine->mover()->counts().demoted_bytes.load();
  const uint64_t written = engine->mover()->tier_stats().written_bytes;
  ASSERT_GT(pages, uint64_t{1} << 20);
  EXPECT_GE(written, pages);
  EXPECT_LE(static_cast<double>(written), 1.05 * static_cast<double>(pages));
  std::printf("%.4f bytes written per byte of pages\n",
              static_cast<double>(written) / static_cast<double>(pages));
}

}  // namespace
}  // namespace quire::testing
