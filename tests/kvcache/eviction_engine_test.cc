// A whole engine under each eviction policy, with memory for a part of its pages: the same bits as with room
// for everything, and the hits that the policy is there for.
#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <filesystem>

#include "kvcache/access_trace.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

constexpr uint64_t kTokens = 4096;
constexpr uint64_t kDecoded = 48;

World selective_world(Eviction eviction) {
  World world;
  world.digests = true;
  world.max_step_tokens = 64;
  world.eviction = eviction;
  world.selection.kind = SelectionKind::kTopPages;
  world.selection.pages = 8;
  world.selection.window = 32;
  return world;
}

World tight(World world, uint64_t quarters = 13) {
  world.host_budget = quarters << 18;  // 13: some 200 of 260 pages, 11: 100
  world.nvme_budget = uint64_t{64} << 20;
  return world;
}

struct Decoded {
  Output output;
  uint64_t hits = 0;  // in decoding
  uint64_t misses = 0;
};

Decoded run(const World& world) {
  std::unique_ptr<Engine> engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  Decoded result;
  result.output = run_chunks(*engine, world, sequence, 0, kTokens, 64);
  const CacheCounters& counters = engine->counters();
  const uint64_t hits = counters.page_hits;
  const uint64_t misses = counters.page_misses;
  for (uint64_t i = 0; i < kDecoded && result.output.status.ok(); ++i) {
    result.output.extend(run_step(*engine, world, sequence, kTokens + i, 1));
  }
  result.hits = counters.page_hits - hits;
  result.misses = counters.page_misses - misses;
  EXPECT_TRUE(result.output.status.ok()) << result.output.status.message();
  EXPECT_TRUE(engine->close().ok());
  return result;
}

TEST(EvictionEngine, NoPolicyChangesABit) {
  const Decoded want = run(selective_world(Eviction::kAuto));
  uint64_t cases = 0;
  for (const EvictionName& policy : kEvictions) {
    const Decoded got = run(tight(selective_world(policy.kind)));
    EXPECT_EQ(got.output.out, want.output.out) << policy.name;
    EXPECT_EQ(got.output.lse, want.output.lse) << policy.name;
    EXPECT_GT(got.misses, 0U) << policy.name << ": memory holds everything";
    std::printf("%-7s hits %llu misses %llu\n", policy.name.data(), static_cast<unsigned long long>(got.hits),
                static_cast<unsigned long long>(got.misses));
    ++cases;
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

// What leaves by frequency lies here and there and seldom empties a chunk of slots: the holes must fill
// again.
TEST(EvictionEngine, ExactAttentionHitsAsOftenWithFrequencyAsWithNewestFirst) {
  for (const uint64_t quarters : {11, 12, 13}) {
    World world = tight(selective_world(Eviction::kNewestFirst), quarters);
    world.selection = {};
    const Decoded newest = run(world);
    world.eviction = Eviction::kFrequency;
    const Decoded frequency = run(world);
    EXPECT_EQ(newest.output.out, frequency.output.out);
    EXPECT_GT(newest.misses, 0U);
    EXPECT_GT(static_cast<double>(frequency.hits), .9 * static_cast<double>(newest.hits)) << quarters;
  }
}

TEST(EvictionEngine, SelectionHitsMoreOftenWithFrequencyThanWithNewestFirst) {
  for (const uint64_t quarters : {11, 12, 13}) {
    const Decoded newest = run(tight(selective_world(Eviction::kNewestFirst), quarters));
    const Decoded frequency = run(tight(selective_world(Eviction::kFrequency), quarters));
    EXPECT_GT(frequency.hits, newest.hits) << quarters;
  }
}

TEST(EvictionEngine, ATraceTellsWhatWasAttended) {
  World world = selective_world(Eviction::kAuto);
  world.access_trace_path = ::testing::TempDir() + "quire_eviction_engine_test.trace";
  const Decoded traced = run(world);
  const Result<AccessLog> log = read_access_log(world.access_trace_path);
  ASSERT_TRUE(log.ok()) << log.status().message();
  std::filesystem::remove(world.access_trace_path);
  uint64_t decoded_pages = 0;
  uint64_t sealed = 0;
  double mass = 0;
  for (const AccessEvent& event : log->events) {
    if (event.kind == AccessKind::kSeal) ++sealed;
    if (event.kind != AccessKind::kUse || event.tokens != 1) continue;
    const auto pages = static_cast<uint64_t>(std::popcount(event.wanted));
    decoded_pages += pages;
    EXPECT_EQ(event.has_mass, 1);
    for (uint64_t i = 0; i < pages; ++i) mass += static_cast<double>(log->masses[event.first_mass + i]);
  }
  EXPECT_EQ(sealed, uint64_t{world.layers} * ((kTokens + kDecoded) / world.page_tokens));
  EXPECT_EQ(decoded_pages, traced.hits + traced.misses);
  // Each (token, layer, query head) has a mass of 1, of which the estimate puts a part on what is chosen.
  const double all = static_cast<double>(kDecoded * world.layers * world.query_heads);
  EXPECT_GT(mass, .02 * all);
  EXPECT_LE(mass, all);
}

TEST(EvictionEngine, AnUnwritableTraceIsRefusedAtOnce) {
  World world;
  world.access_trace_path = "/nowhere/at/all";
  const auto engine = Engine::open(engine_options(world));
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.status().message().find("access trace"), std::string::npos);
}

}  // namespace
}  // namespace quire::testing
