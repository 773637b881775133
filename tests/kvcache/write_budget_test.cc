// A whole engine under nvme_write_budget_per_day, on a clock that the test moves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "tests/offload/support.h"
#include "tests/support/engine_world.h"
#include "tests/support/temporary_store.h"

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
  EXPECT_LE(before, share);

  clock.advance(std::chrono::hours(1));
  const uint64_t length = engine.cache().length(sequence);
  EXPECT_TRUE(run_chunks(engine, world, sequence, length, 64, 64).status.ok());
  EXPECT_GT(engine.mover()->tier_stats().written_bytes, before);
}

// What the store writes is missing to the spill file, and publishing leaves half to it.
TEST(WriteBudgetOfAnEngine, TheStoreAndTheSpillFileShareIt) {
  const TemporaryStore file;
  const World world = spilling_world();
  StepClock clock;
  EngineOptions options = engine_options(world);
  options.clock = &clock;
  options.nvme_write_budget_per_day = uint64_t{12} << 20;
  options.store_path = file.path();
  options.store_budget = uint64_t{16} << 20;
  options.model_fingerprint = {1, 2};
  auto opened = Engine::open(std::move(options));
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  Engine& engine = **opened;
  Sequence* sequence = *engine.cache().create_sequence();
  // Spills what the bucket holds. Bytes count as written when their write has ended, so only those of both
  // hours together are compared with what both hours allow.
  EXPECT_EQ(run_chunks(engine, world, sequence, 0, 6400, 64).status.code(), StatusCode::kOverBudget);
  const uint64_t share = (uint64_t{12} << 20) / 24;
  clock.advance(std::chrono::hours(1));
  std::vector<int32_t> tokens(1280);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  const PrefixScope scope{engine.model_fingerprint(), {7, 0}, 0, 0, layout_hash(engine.config())};
  const PrefixChain chain = make_chain(scope, world.page_tokens, tokens);
  // Publishing reads pages that may have to come up, so the spill file may be written meanwhile as well.
  const auto stored = engine.prefixes().publish(sequence, chain);
  ASSERT_TRUE(stored.ok()) << stored.status().message();
  const BlockStoreStats store = engine.prefixes().store()->stats();
  EXPECT_GT(*stored, 0U);
  EXPECT_GT(store.unaffordable_blocks, 0U);
  while (run_chunks(engine, world, sequence, engine.cache().length(sequence), 64, 64).status.ok()) {
  }
  const uint64_t all = engine.mover()->tier_stats().written_bytes + store.written_bytes;
  EXPECT_LE(all, 2 * share);
  EXPECT_GE(all, share + share / 2);
  clock.advance(std::chrono::hours(1));
  const auto later = engine.prefixes().publish(sequence, chain);
  ASSERT_TRUE(later.ok()) << later.status().message();
  EXPECT_GT(*later, 0U);
}

bool is_writing(Engine& engine, const Sequence& sequence) {
  const ResidencyLock lock = engine.residency().lock();
  return std::ranges::any_of(sequence.layers, [](const SequenceLayer& layer) {
    return std::ranges::any_of(layer.table->pages, &Page::writing);
  });
}

// Which runs the mover finds depends on when it looks: it looks whenever a layer has been appended, and
// writes until nothing is due.
struct AppendingEngine {
  explicit AppendingEngine(const World& of) : world(of) {
    world.one_thread = true;
    engine = open_engine(world);
    sequence = *engine->cache().create_sequence();
  }
  void let_it_write() {
    do {
      engine->mover()->turn(is_writing(*engine, *sequence) ? std::chrono::seconds(1) : Nanoseconds::zero());
    } while (is_writing(*engine, *sequence));
  }
  // Appended alone: that takes pages out of memory, and nothing in.
  void append(uint64_t tokens) {
    for (uint64_t first = 0; first < tokens; first += world.max_step_tokens) {
      const StepRequest request{sequence, first, world.max_step_tokens};
      Result<std::unique_ptr<OpenStep>> step = engine->cache().begin({&request, 1});
      ASSERT_TRUE(step.ok()) << step.status().message();
      for (uint32_t layer = 0; layer < world.layers; ++layer) {
        const std::vector<float> keys = rows(world, Row::kKey, layer, first, world.max_step_tokens);
        const TensorView both = view(keys, world.head_dim, world.kv_heads);
        ASSERT_TRUE(engine->cache().append(step->get(), layer, both, both).ok());
        ASSERT_TRUE(engine->cache().wait(step->get()).ok());
        let_it_write();
      }
      const Status end = engine->cache().end(step->get());
      ASSERT_TRUE(end.ok()) << end.message();
    }
  }
  // Bytes written per byte of pages, of which there must be `least`.
  double amplification(uint64_t least) const {
    const uint64_t pages = engine->mover()->counts().demoted_bytes.load();
    const uint64_t written = engine->mover()->tier_stats().written_bytes;
    EXPECT_GT(pages, least);
    const double ratio = static_cast<double>(written) / static_cast<double>(pages);
    std::printf("%.4f bytes written per byte of pages, in %llu requests\n", ratio,
                static_cast<unsigned long long>(engine->mover()->tier_stats().puts));
    return ratio;
  }

  World world;
  std::unique_ptr<Engine> engine;
  Sequence* sequence = nullptr;
};

// Memory from which requests of 2 MiB are staged.
TEST(WriteAmplification, IsSmallWithLargeRequests) {
  World world;
  world.layers = 2;
  world.kv_heads = world.query_heads = 8;
  world.head_dim = 128;
  world.page_tokens = 64;
  world.max_step_tokens = 256;
  world.key_codec = world.value_codec = CodecId::kInt8;
  world.host_budget = uint64_t{64} << 20;
  world.nvme_budget = uint64_t{1} << 30;
  AppendingEngine appending(world);
  EXPECT_EQ(plan_staging(appending.engine->config(), world.host_budget).write_bytes, uint64_t{2} << 20);
  ASSERT_NO_FATAL_FAILURE(appending.append(20480));
  const double ratio = appending.amplification(uint64_t{32} << 20);
  EXPECT_GE(ratio, 1);
  EXPECT_LE(ratio, 1.05);
}

TEST(WriteAmplification, IsAFewPercentAtMost) {
  World world = spilling_world();
  world.host_budget = uint64_t{6} << 20;
  AppendingEngine appending(world);
  ASSERT_NO_FATAL_FAILURE(appending.append(16000));
  const double ratio = appending.amplification(uint64_t{1} << 20);
  EXPECT_GE(ratio, 1);
  EXPECT_LE(ratio, 1.05);
}

}  // namespace
}  // namespace quire::testing
