// Choosing pages in a cache with a device: digests are the CPU's bytes wherever pages come from, so the
// choice is the CPU's, and what is attended of it, on the device, carried up or on the CPU, agrees with the
// CPU engine and with f64.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/engine_runner.h"
#include "tests/offload/faulty_engine.h"

namespace quire::testing {
namespace {

constexpr AttendSpeeds kSlowLink{1, 1e12, 1e12};
constexpr AttendSpeeds kFastLink{1e15, 1, 1e15};

Selection top(uint32_t pages, uint64_t window = 0) {
  Selection selection;
  selection.kind = SelectionKind::kTopPages;
  selection.pages = pages;
  selection.window = window;
  return selection;
}

Selection share_of(float share) {
  Selection selection = top(0);
  selection.share = share;
  return selection;
}

Selection mass_of(float mass) {
  Selection selection;
  selection.kind = SelectionKind::kMass;
  selection.mass = mass;
  return selection;
}

Selection checked(Selection selection) {
  selection.check = true;
  return selection;
}

World selective_world(CodecId codec, const Selection& selection) {
  World world;
  world.digests = true;
  world.selection = selection;
  world.key_codec = world.value_codec = codec;
  world.page_tokens = 64;
  world.max_step_tokens = 128;
  world.query_scale = 3;
  world.device_budget = 16 * kMiB;
  return world;
}

World on_cpu(World world) {
  world.device_budget = 0;
  return world;
}

Sequence* new_sequence(Engine& engine, const World& world) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  return sequence;
}

TEST_F(CudaEngine, MakesTheDigestsOfTheCpu) {
  uint32_t cases = 0;
  for (const CodecId codec :
       {CodecId::kF32, CodecId::kInt4, CodecId::kRot4, CodecId::kTcq3, CodecId::kNuq3s}) {
    for (const float scale : {1.0F, 6e37F}) {  // the latter brings rotated keys beyond their codec's range
      World world = selective_world(codec, top(1));
      world.page_tokens = scale == 1.0F ? 32 : 64;
      world.balance = true;
      std::vector<std::vector<std::vector<uint8_t>>> both;
      for (const bool on_device : {false, true}) {
        const auto engine = on_device ? open_on_device(world) : open_engine(on_cpu(world));
        ASSERT_NE(engine, nullptr);
        Sequence* sequence = new_sequence(*engine, world);
        for (uint64_t at = 0; at < 384; at += 128) {
          const Status status = append_tokens(*engine, world, sequence, at, 128, scale);
          ASSERT_TRUE(status.ok()) << status.message();
        }
        both.push_back(digests_of(*engine, sequence));
      }
      EXPECT_EQ(both[0].size(), world.layers * 384 / world.page_tokens);
      EXPECT_EQ(both[0], both[1]) << find_codec(codec)->name << ", scale " << scale;
      ++cases;
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

// `context` tokens that nobody attends, a chunk behind them, and tokens one by one.
struct Walk {
  uint64_t context;
  uint64_t chunk;
  uint64_t tokens;
  uint64_t window = 0;
};

struct Walked {
  Output output;
  uint64_t chosen;
  uint64_t skipped;
  uint64_t on_device;  // pages attended
  uint64_t on_host;
};

Walked walk(Engine& engine, const World& world, const Walk& w) {
  Sequence* sequence = new_sequence(engine, world);
  for (uint64_t at = 0; at < w.context; at += 64) {
    EXPECT_TRUE(append_tokens(engine, world, sequence, at, 64).ok());
  }
  Output output = run_step(engine, world, sequence, w.context, w.chunk, w.window);
  EXPECT_TRUE(output.status.ok()) << output.status.message();
  const Output more = run_chunks(engine, world, sequence, w.context + w.chunk, w.tokens, 1, w.window);
  EXPECT_TRUE(more.status.ok()) << more.status.message();
  output.extend(more);
  const CacheCounters& counters = engine.counters();
  return {output, counters.pages_chosen.load(), counters.pages_skipped.load(),
          counters.device_attended_pages.load(), counters.host_attended_pages.load()};
}

// The CPU's own attention over folded pages and the device's together (tiles of prefill take weights of 8
// bits), as in engine_test.cc.
double tolerance(CodecId codec) { return codec == CodecId::kInt8 ? 2e-3 : 2.5e-2; }

void expect_close(const World& world, const Walked& got, const Walked& want, double bound) {
  EXPECT_LT(worst_difference(world, got.output, want.output), bound);
  for (size_t layer = 0; layer < want.output.missed.size(); ++layer) {
    ASSERT_EQ(got.output.missed[layer].size(), want.output.missed[layer].size());
    for (size_t i = 0; i < want.output.missed[layer].size(); ++i) {
      ASSERT_NEAR(got.output.missed[layer][i], want.output.missed[layer][i], bound);
      ASSERT_NEAR(got.output.lse[layer][i], want.output.lse[layer][i], bound);
    }
  }
}

void expect_same(const World& world, const Walked& got, const Walked& want, double bound) {
  EXPECT_EQ(got.chosen, want.chosen);
  EXPECT_EQ(got.skipped, want.skipped);
  expect_close(world, got, want, bound);
}

TEST_F(CudaEngine, ChoosesAndAttendsAsTheCpuDoes) {
  uint32_t cases = 0;
  for (const CodecId codec : {CodecId::kRot4, CodecId::kInt8}) {
    for (const Selection& selection : {top(2, 70), checked(top(2, 70)), share_of(0.4F), mass_of(0.6F),
                                       checked(mass_of(0.6F)), top(1000)}) {
      for (const uint64_t window : {uint64_t{0}, uint64_t{420}}) {
        const World world = selective_world(codec, selection);
        const Walk w{640, 100, 2, window};  // the chunk has three tiles
        const Walked want = walk(*open_engine(on_cpu(world)), world, w);
        const auto engine = open_on_device(world);
        ASSERT_NE(engine, nullptr);
        const Walked got = walk(*engine, world, w);
        SCOPED_TRACE(std::string(find_codec(codec)->name) + ", selection " + std::to_string(cases) +
                     ", window " + std::to_string(window));
        expect_same(world, got, want, tolerance(codec));
        EXPECT_EQ(got.on_device, want.on_host);
        EXPECT_EQ(got.on_host, 0U);
        EXPECT_EQ(want.skipped > 0, selection.pages != 1000);
        ++cases;
      }
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

// f64 of everything, and of what was attended by lse: what is missed is told by neither engine.
TEST_F(CudaEngine, CheckedMissedMassIsWhatF64Says) {
  const World world = selective_world(CodecId::kF32, checked(top(2, 64)));
  const auto engine = open_on_device(world);
  ASSERT_NE(engine, nullptr);
  const Walked got = walk(*engine, world, {448, 100, 3});
  double most = 0;
  for (const uint64_t position : {448U, 470U, 547U, 550U}) {
    for (uint32_t layer = 0; layer < world.layers; ++layer) {
      const std::vector<float> keys = rows(world, Row::kKey, layer, 0, position + 1);
      const std::vector<float> queries = rows(world, Row::kQuery, layer, position, 1);
      for (uint32_t head = 0; head < world.query_heads; ++head) {
        const uint32_t kv = head / (world.query_heads / world.kv_heads);
        double all = 0;
        for (uint64_t t = 0; t <= position; ++t) {
          double score = 0;
          for (uint32_t c = 0; c < world.head_dim; ++c) {
            score += static_cast<double>(queries[head * world.head_dim + c]) *
                     static_cast<double>(keys[t * world.kv_row() + kv * world.head_dim + c]);
          }
          all += std::exp(score * static_cast<double>(world.query_scale) / std::sqrt(world.head_dim));
        }
        const size_t at = (position - 448) * world.query_heads + head;
        const double want = 1 - std::exp(static_cast<double>(got.output.lse[layer][at])) / all;
        EXPECT_NEAR(static_cast<double>(got.output.missed[layer][at]), want, 1e-4)
            << "layer " << layer << ", position " << position << ", head " << head;
        most = std::max(most, want);
      }
    }
  }
  EXPECT_GT(most, 0.2);
}

// A step of two sequences: a chunk of several tiles and a token.
Walked walk_two(Engine& engine, const World& world) {
  Sequence* chunk = new_sequence(engine, world);
  Sequence* token = new_sequence(engine, world);
  for (uint64_t at = 0; at < 640; at += 128) {
    EXPECT_TRUE(append_tokens(engine, world, chunk, at, 128).ok());
    if (at >= 384) continue;
    EXPECT_TRUE(append_tokens(engine, world, token, at, 128).ok());
  }
  const std::array<StepRequest, 2> requests{StepRequest{chunk, 640, 100}, StepRequest{token, 384, 1}};
  Walked walked{};
  Output& output = walked.output;
  Result<std::unique_ptr<OpenStep>> step = engine.cache().begin(requests);
  EXPECT_TRUE(step.ok()) << step.status().message();
  const auto both = [&](Row row, uint32_t layer) {
    std::vector<float> all = rows(world, row, layer, 640, 100);
    const std::vector<float> last = rows(world, row, layer, 384, 1);
    all.insert(all.end(), last.begin(), last.end());
    return all;
  };
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    const std::vector<float> keys = both(Row::kKey, layer);
    const std::vector<float> values = both(Row::kValue, layer);
    const std::vector<float> queries = both(Row::kQuery, layer);
    EXPECT_TRUE(engine.cache()
                    .append(step->get(), layer, view(keys, world.head_dim, world.kv_heads),
                            view(values, world.head_dim, world.kv_heads))
                    .ok());
    output.out.emplace_back(queries.size());
    output.lse.emplace_back(101 * world.query_heads);
    output.missed.emplace_back(101 * world.query_heads);
    Selection selection = world.selection;
    selection.missed_mass = output.missed[layer].data();
    const TensorView q = view(queries, world.head_dim, world.query_heads);
    const AttendArgs args{world.query_scale / std::sqrt(static_cast<float>(world.head_dim)),
                          q,
                          {output.out[layer].data(), DType::kF32, q.token_stride, q.head_stride},
                          0,
                          output.lse[layer].data(),
                          nullptr,
                          selection};
    EXPECT_TRUE(engine.cache().attend(step->get(), layer, args).ok());
    EXPECT_TRUE(engine.cache().wait(step->get()).ok());
  }
  EXPECT_TRUE(engine.cache().end(step->get()).ok());
  walked.chosen = engine.counters().pages_chosen.load();
  walked.skipped = engine.counters().pages_skipped.load();
  return walked;
}

TEST_F(CudaEngine, SequencesOfAStepChooseForThemselves) {
  for (const Selection& selection : {top(2, 64), checked(mass_of(0.5F))}) {
    const World world = selective_world(CodecId::kInt8, selection);
    const Walked want = walk_two(*open_engine(on_cpu(world)), world);
    const Walked got = walk_two(*open_on_device(world), world);
    EXPECT_GT(want.skipped, 0U);
    expect_same(world, got, want, 2e-3);
  }
}

// Tokens that choose alone: their lists are longer together than there is room for on the device.
TEST_F(CudaEngine, ListsOfManyTilesGoInParts) {
  World world = selective_world(CodecId::kF32, checked(share_of(0.5F)));
  world.layers = 1;
  world.query_heads = world.kv_heads = 1;
  world.head_dim = 32;
  world.page_tokens = 32;
  world.max_step_tokens = 64;
  world.select_alone = true;
  world.device_budget = 32 * kMiB;
  constexpr uint64_t kTokens = 400 * 32;
  std::vector<Walked> both;
  for (const bool on_device : {false, true}) {
    const auto engine = on_device ? open_on_device(world) : open_engine(on_cpu(world));
    ASSERT_NE(engine, nullptr);
    Sequence* sequence = new_sequence(*engine, world);
    for (uint64_t at = 0; at < kTokens; at += 64) {
      ASSERT_TRUE(append_tokens(*engine, world, sequence, at, 64).ok());
    }
    const Output output = run_step(*engine, world, sequence, kTokens, 24);  // 24 lists of 400 sections
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    both.push_back(
        {output, engine->counters().pages_chosen.load(), engine->counters().pages_skipped.load(), 0, 0});
  }
  expect_same(world, both[1], both[0], 2e-4);
}

// Little room on the device and in host memory, and a disk.
World tight_world(const Selection& selection) {
  World world = selective_world(CodecId::kInt8, selection);
  world.layers = 1;
  world.page_tokens = 32;
  world.max_step_tokens = 64;
  world.nvme_budget = 64 * kMiB;
  world.device_budget = least(world, &World::device_budget) + 3 * kMiB / 4;
  world.host_budget = least(world, &World::host_budget) + kMiB / 8;
  return world;
}

TEST_F(CudaEngine, ChosenPagesAreAttendedWhereverTheyLie) {
  uint32_t cases = 0;
  for (const Selection& selection : {top(20, 64), checked(top(20, 64))}) {
    World world = tight_world(selection);
    World roomy = on_cpu(world);
    roomy.host_budget = 64 * kMiB;
    roomy.nvme_budget = 0;
    const Walk w{140 * 32, 40, 3};
    const Walked want = walk(*open_engine(roomy), roomy, w);
    for (const AttendSpeeds& speeds : {kSlowLink, kFastLink, AttendSpeeds{}}) {
      world.speeds = speeds;
      const auto engine = open_on_device(world);
      ASSERT_NE(engine, nullptr);
      const Walked got = walk(*engine, world, w);
      const ResidencyCounts places = counts_of(*engine);
      EXPECT_GT(places.memory_pages[0], 0U);
      EXPECT_GT(places.pages, places.memory_pages[0] + places.memory_pages[1]) << "none is on disk alone";
      expect_same(world, got, want, 2e-3);
      EXPECT_GT(got.on_device, 0U);
      const uint64_t carried = engine->counters().carried_pages.load();
      if (speeds.link == kSlowLink.link) {
        EXPECT_EQ(carried, 0U);
        EXPECT_GT(got.on_host, 0U);
      } else if (speeds.link == kFastLink.link) {
        EXPECT_GT(carried, 0U);
      }
      ++cases;
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

TEST_F(CudaEngine, RecoveredPagesHaveTheirDigestsAgain) {
  World world = tight_world(top(20, 64));
  world.speeds = kSlowLink;
  const Walk w{140 * 32, 40, 3};
  const Walked clean = walk(*open_on_device(world), world, w);
  const auto plan = std::make_shared<FaultPlan>(11);
  for (uint32_t i = 0; i < 6; ++i) plan->add({Fault::kBitFlip, IoKind::kRead, 2 + 3 * i, 1});
  world.open_io = faulty_engine_factory(plan);
  const uint64_t refills = count_refills();
  const auto engine = open_on_device(world);
  ASSERT_NE(engine, nullptr);
  const Walked got = walk(*engine, world, w);
  EXPECT_GT(count_refills(), refills);
  expect_close(world, got, clean, 2e-3);  // a choice is made anew behind a miss
}

}  // namespace
}  // namespace quire::testing
