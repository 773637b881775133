// Selective attention of a whole engine: all pages chosen is exact attention, what is missed is what f64
// says, and the choice depends on the tokens alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <set>

#include "kvcache/page_reader.h"
#include "tests/offload/faulty_engine.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

constexpr uint64_t kTokens = 1000;

Selection top(uint32_t pages, uint64_t window = 0) {
  Selection selection;
  selection.kind = SelectionKind::kTopPages;
  selection.pages = pages;
  selection.window = window;
  return selection;
}

Selection mass_of(float mass) {
  Selection selection;
  selection.kind = SelectionKind::kMass;
  selection.mass = mass;
  return selection;
}

World selective_world(const Selection& selection, CodecId codec = CodecId::kRot4) {
  World world;
  world.digests = true;
  world.key_codec = world.value_codec = codec;
  world.selection = selection;
  return world;
}

// Everything in chunks of 64, then the last tokens one by one.
Output run(const World& world, std::unique_ptr<Engine>* engine, uint64_t tokens = kTokens,
           uint64_t chunk = 64) {
  *engine = open_engine(world);
  Sequence* sequence = *(*engine)->cache().create_sequence();
  Output output = run_chunks(**engine, world, sequence, 0, tokens, chunk);
  for (uint64_t i = 0; i < 40 && output.status.ok(); ++i) {
    output.extend(run_step(**engine, world, sequence, tokens + i, 1));
  }
  return output;
}

Output run(const World& world) {
  std::unique_ptr<Engine> engine;
  return run(world, &engine);
}

class SelectiveCodec : public ::testing::TestWithParam<CodecId> {};

TEST_P(SelectiveCodec, AllPagesAreExactAttention) {
  World exact;
  exact.key_codec = exact.value_codec = GetParam();
  const Output want = run(exact);
  ASSERT_TRUE(want.status.ok()) << want.status.message();
  Selection checked = top(100000);
  checked.check = true;
  for (const Selection& selection : {top(100000), mass_of(1), top(0, 100000), checked}) {
    const Output got = run(selective_world(selection, GetParam()));
    ASSERT_TRUE(got.status.ok()) << got.status.message();
    EXPECT_EQ(got.out, want.out);
    EXPECT_EQ(got.lse, want.lse);
    for (const auto& layer : got.missed) {
      EXPECT_EQ(std::count(layer.begin(), layer.end(), 0.0F), static_cast<int64_t>(layer.size()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, SelectiveCodec,
                         ::testing::Values(CodecId::kBf16, CodecId::kInt8, CodecId::kRot4, CodecId::kTcq2,
                                           CodecId::kNuq3s),
                         [](const auto& test) { return std::string(find_codec(test.param)->name); });

// f64 scores of one query head against every token up to `position`.
std::vector<double> scores(const World& world, uint32_t layer, uint64_t position, uint32_t head) {
  const std::vector<float> keys = rows(world, Row::kKey, layer, 0, position + 1);
  const std::vector<float> queries = rows(world, Row::kQuery, layer, position, 1);
  const uint32_t kv = head / (world.query_heads / world.kv_heads);
  std::vector<double> out;
  for (uint64_t t = 0; t <= position; ++t) {
    double sum = 0;
    for (uint32_t c = 0; c < world.head_dim; ++c) {
      sum += static_cast<double>(queries[head * world.head_dim + c]) *
             static_cast<double>(keys[t * world.kv_row() + kv * world.head_dim + c]);
    }
    out.push_back(sum / std::sqrt(static_cast<double>(world.head_dim)));
  }
  return out;
}

double log_sum(const std::vector<double>& scores) {
  double sum = 0;
  for (const double s : scores) sum += std::exp(s);
  return std::log(sum);
}

// lse is of what was attended: with f64's lse of everything it tells independently what was missed.
TEST(SelectiveAttention, CheckedMissedMassIsWhatF64Says) {
  Selection selection = top(3, 64);
  selection.check = true;
  const World world = selective_world(selection, CodecId::kF32);
  const Output output = run(world);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  uint64_t cases = 0;
  double most = 0;
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    for (const uint64_t position : {0U, 31U, 200U, 555U, 999U, 1003U, 1039U}) {
      for (uint32_t head = 0; head < world.query_heads; ++head, ++cases) {
        const size_t at = position * world.query_heads + head;
        const double all = log_sum(scores(world, layer, position, head));
        const double want = 1 - std::exp(static_cast<double>(output.lse[layer][at]) - all);
        EXPECT_NEAR(static_cast<double>(output.missed[layer][at]), want, 1e-5)
            << "layer " << layer << " position " << position << " head " << head;
        most = std::max(most, want);
      }
    }
  }
  EXPECT_GT(most, 0.3);  // pages were left out
  std::printf("[counts] cases=%llu seeds=1\n", static_cast<unsigned long long>(cases));
}

// Keys without structure are the hardest to summarise; still the chosen pages hold more than others would.
TEST(SelectiveAttention, ChosenPagesHoldMoreMassThanOthers) {
  World world = selective_world(top(4), CodecId::kBf16);
  world.query_scale = 4;
  world.selection.check = true;
  const Output output = run(world);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  double missed = 0;
  double by_chance = 0;
  for (uint64_t position = kTokens; position < kTokens + 40; ++position) {
    const uint64_t folded = position / world.page_tokens;
    const double share =
        static_cast<double>((folded - 5) * world.page_tokens) / static_cast<double>(position + 1);
    for (uint32_t layer = 0; layer < world.layers; ++layer) {
      for (uint32_t head = 0; head < world.query_heads; ++head) {
        missed += static_cast<double>(output.missed[layer][position * world.query_heads + head]);
        by_chance += share;
      }
    }
  }
  EXPECT_LT(missed, 0.97 * by_chance);
  EXPECT_GT(missed, 0.2 * by_chance);
}

TEST(SelectiveAttention, CheckingChangesNoBit) {
  Selection selection = top(4, 64);
  const Output plain = run(selective_world(selection));
  selection.check = true;
  const Output checked = run(selective_world(selection));
  ASSERT_TRUE(plain.status.ok() && checked.status.ok());
  EXPECT_EQ(plain.out, checked.out);
  EXPECT_EQ(plain.lse, checked.lse);
  EXPECT_NE(plain.missed, checked.missed);  // estimates are not exact
  double error = 0;
  uint64_t count = 0;
  for (size_t layer = 0; layer < plain.missed.size(); ++layer) {
    for (size_t i = 0; i < plain.missed[layer].size(); ++i, ++count) {
      error += static_cast<double>(std::abs(plain.missed[layer][i] - checked.missed[layer][i]));
    }
  }
  EXPECT_LT(error / static_cast<double>(count), 0.2);
}

TEST(SelectiveAttention, IsTheSameForEveryThreadCountAndPlace) {
  const Selection selection = top(5, 32);
  const Output want = run(selective_world(selection));
  ASSERT_TRUE(want.status.ok());
  World world = selective_world(selection);
  for (const uint32_t threads : {1U, 3U}) {
    world.threads = threads;
    const Output got = run(world);
    EXPECT_EQ(got.out, want.out);
    EXPECT_EQ(got.missed, want.missed);
  }
  world.max_step_tokens = 64;
  world.host_budget = uint64_t{3} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  std::unique_ptr<Engine> engine;
  const Output got = run(world, &engine, kTokens);
  ASSERT_TRUE(got.status.ok()) << got.status.message();
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.missed, want.missed);
}

TEST(SelectiveAttention, TokensThatChooseAloneChooseAsInDecoding) {
  World world = selective_world(top(2));
  std::unique_ptr<Engine> engine;
  const Output one_by_one = run(world, &engine, 960, 1);
  world.select_alone = true;
  const Output together = run(world, &engine, 960, 64);
  ASSERT_TRUE(one_by_one.status.ok() && together.status.ok());
  EXPECT_EQ(one_by_one.out, together.out);
  EXPECT_EQ(one_by_one.missed, together.missed);
}

uint64_t hits_and_misses(const Engine& engine) {
  return engine.counters().page_hits.load() + engine.counters().page_misses.load();
}

TEST(SelectiveAttention, ReadsOnlyWhatWasChosen) {
  const uint32_t pages = 2;
  World world = selective_world(top(pages));
  world.layers = 1;
  world.kv_heads = world.query_heads = 1;
  std::unique_ptr<Engine> engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kTokens, 64).status.ok());
  const uint64_t before = hits_and_misses(*engine);
  const uint64_t chosen = engine->counters().pages_chosen.load();
  const uint64_t skipped = engine->counters().pages_skipped.load();
  ASSERT_TRUE(run_step(*engine, world, sequence, kTokens, 1).status.ok());
  EXPECT_EQ(hits_and_misses(*engine) - before, 1 + pages);
  EXPECT_EQ(engine->counters().pages_chosen.load() - chosen, 1 + pages);
  EXPECT_EQ(engine->counters().pages_skipped.load() - skipped, kTokens / world.page_tokens - 1 - pages);
}

TEST(SelectiveAttention, ReportsTheWorstWhereNoFoldedPageIsAttended) {
  const World world = selective_world(top(0));
  const std::unique_ptr<Engine> engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  const Output output = run_chunks(*engine, world, sequence, 0, 300, 64, 100);  // page 0 is out of the window
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  EXPECT_EQ(output.missed[0].back(), 1.0F);
  EXPECT_EQ(output.missed[0].front(), 0.0F);
}

TEST(SelectiveAttention, DigestsAreChargedToTheBudget) {
  constexpr uint64_t kPrompt = 8000;
  constexpr uint64_t kWindow = 64;  // what is attended does not matter
  uint64_t bytes[2];
  for (const bool digests : {false, true}) {
    World world;
    world.digests = digests;
    std::unique_ptr<Engine> engine = open_engine(world);
    Sequence* sequence = *engine->cache().create_sequence();
    ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kPrompt, 512, kWindow).status.ok());
    bytes[digests ? 1 : 0] = engine->host_budget().used(Use::kTables);
  }
  const uint64_t pages = 2 * (kPrompt / 32);
  const uint64_t want = pages * 2 * (4 + 2 * (64 + 32));  // kv heads, bytes of one
  EXPECT_GE(bytes[1] - bytes[0], want - (32 << 10));
  EXPECT_LE(bytes[1] - bytes[0], want + want / 4 + (32 << 10));
}

TEST(SelectiveAttention, PreRopeHasNoDigests) {
  World world;
  world.digests = true;
  world.key_space = KeySpace::kPreRope;
  const Result<std::unique_ptr<Engine>> engine = Engine::open(engine_options(world));
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.status().message().find("digests"), std::string::npos);
}

// Of pages on disk only the heads that chose them come up, and the bits are those of whole pages.
TEST(SelectiveAttention, ReadsOnlyTheHeadsThatChose) {
  World world = selective_world(top(2));
  world.kv_heads = world.query_heads = 8;
  world.head_dim = 128;
  world.page_tokens = 64;
  world.max_step_tokens = 64;
  world.eviction = Eviction::kNewestFirst;  // nothing that is read stays: each step reads anew
  world.host_budget = uint64_t{10} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  constexpr uint64_t kPrompt = 5000;
  std::array<uint64_t, 2> bytes{};
  Output parts;
  Output whole_pages;
  for (const bool whole : {false, true}) {
    world.read_gap = whole ? uint64_t{1} << 30 : kReadGap;
    std::unique_ptr<Engine> engine = open_engine(world);
    Sequence* sequence = *engine->cache().create_sequence();
    Output output = run_chunks(*engine, world, sequence, 0, kPrompt, 64);
    const uint64_t before = engine->mover()->tier_stats().read_bytes;
    for (uint64_t i = 0; i < 40 && output.status.ok(); ++i) {
      output.extend(run_step(*engine, world, sequence, kPrompt + i, 1));
    }
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    bytes[whole ? 1 : 0] = engine->mover()->tier_stats().read_bytes - before;
    EXPECT_EQ(engine->mover()->counts().partial_pages > 0, !whole);
    EXPECT_EQ(engine->mover()->counts().failed_reads, 0U);
    (whole ? whole_pages : parts) = std::move(output);
  }
  EXPECT_EQ(parts.out, whole_pages.out);
  EXPECT_EQ(parts.lse, whole_pages.lse);
  EXPECT_GT(bytes[0], 0U);
  // A section is an eighth of its page; what lies in blocks with it and between two of them comes along.
  EXPECT_LT(bytes[0], bytes[1] * 45 / 100);
}

class LostPages : public ::testing::TestWithParam<bool> {};

// A chosen page that cannot be proven right is a miss, is refilled, and the bits are those of a clean run;
// also where of each page only the heads are read, and proven, that chose it.
TEST_P(LostPages, CostTimeNeverAnAnswer) {
  World world = selective_world(top(4, 32), CodecId::kBf16);
  world.head_dim = 32;
  if (GetParam()) {
    world.kv_heads = 4;
    world.read_gap = 0;
    world.eviction = Eviction::kNewestFirst;
  }
  world.host_budget = uint64_t{2} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 64;
  std::unique_ptr<Engine> engine;
  const Output clean = run(world, &engine, 2400);
  ASSERT_TRUE(clean.status.ok()) << clean.status.message();
  uint64_t faults = 0;
  for (const Fault fault : {Fault::kEio, Fault::kBitFlip}) {
    const auto plan = std::make_shared<FaultPlan>(11);
    for (uint32_t i = 0; i < 6; ++i) plan->add({fault, IoKind::kRead, 2 + 3 * i, 1});
    plan->hit_by_chance(GetParam() ? 30 : 150, {fault});  // parts are many more requests
    world.open_io = faulty_engine_factory(plan);
    const uint64_t refills = count_refills();
    const Output output = run(world, &engine, 2400);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    EXPECT_EQ(output.out, clean.out);
    EXPECT_EQ(output.missed, clean.missed);
    EXPECT_GT(count_refills(), refills);
    EXPECT_EQ(engine->mover()->counts().partial_pages > 0, GetParam());
    faults += plan->hits();
  }
  engine.reset();
  std::printf("[counts] cases=2 faults=%llu\n", static_cast<unsigned long long>(faults));
}

INSTANTIATE_TEST_SUITE_P(Reads, LostPages, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "ByHead" : "Whole"; });

}  // namespace
}  // namespace quire::testing
