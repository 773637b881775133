// Keys that a cache with a device keeps unrotated: turned when they are read, by the rope of their sequence,
// to what the CPU engine and f64 attention give.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

World pre_rope_world(CodecId codec) {
  World world;
  world.key_space = KeySpace::kPreRope;
  world.key_codec = world.value_codec = codec;
  world.balance = find_codec(codec)->space == CodecSpace::kRotated;
  world.page_tokens = 64;
  world.max_step_tokens = 128;
  world.device_budget = 16 * kMiB;
  return world;
}

World on_cpu(World world) {
  world.device_budget = 0;
  return world;
}

Sequence* new_sequence(Engine& engine, const Rope& rope) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, rope).ok());
  return sequence;
}

Sequence* filled(Engine& engine, const World& world, const Rope& rope, uint64_t tokens) {
  Sequence* sequence = new_sequence(engine, rope);
  for (uint64_t at = 0; at < tokens; at += 64) {
    EXPECT_TRUE(append_tokens(engine, world, sequence, at, 64).ok());
  }
  return sequence;
}

// The CPU's bound and the device's together.
double tolerance(CodecId codec) {
  return codec == CodecId::kF32 ? 1e-4 : codec == CodecId::kInt8 ? 2e-3 : 1e-2;
}

TEST_F(CudaEngine, TurnsPreRopeKeysAsTheCpuDoes) {
  uint32_t cases = 0;
  for (const CodecId codec :
       {CodecId::kF32, CodecId::kInt8, CodecId::kInt4, CodecId::kRot4, CodecId::kTcq3, CodecId::kNuq4s}) {
    for (const uint64_t window : {uint64_t{0}, uint64_t{200}}) {
      const World world = pre_rope_world(codec);
      Output both[2];
      for (const bool on_device : {false, true}) {
        const auto engine = on_device ? open_on_device(world) : open_engine(on_cpu(world));
        ASSERT_NE(engine, nullptr);
        Sequence* sequence = filled(*engine, world, test_rope(world), 320);
        Output& output = both[on_device ? 1 : 0];
        output = run_step(*engine, world, sequence, 320, 100, window);  // three tiles
        ASSERT_TRUE(output.status.ok()) << output.status.message();
        output.extend(run_chunks(*engine, world, sequence, 420, 2, 1, window));
        ASSERT_TRUE(output.status.ok()) << output.status.message();
        if (on_device) {
          EXPECT_EQ(engine->counters().host_attended_pages.load(), 0U);
        }
      }
      const double worst = worst_difference(world, both[1], both[0]);
      EXPECT_LT(worst, tolerance(codec)) << find_codec(codec)->name << ", window " << window;
      EXPECT_GT(worst, 0) << "the device had no part in it";
      ++cases;
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

// Of pages on the device, in host memory and on disk, carried up and not.
TEST_F(CudaEngine, PreRopeKeysOfAllPlacesAreTurned) {
  World world = pre_rope_world(CodecId::kF32);
  world.layers = 1;
  world.max_step_tokens = 64;
  world.nvme_budget = 64 * kMiB;
  world.device_budget = least(world, &World::device_budget) + 5 * kMiB / 2;
  world.host_budget = least(world, &World::host_budget) + kMiB / 2;
  for (const AttendSpeeds& speeds : {AttendSpeeds{1, 1e12, 1e12}, AttendSpeeds{1e15, 1, 1e15}}) {
    world.speeds = speeds;
    const auto engine = open_on_device(world);
    ASSERT_NE(engine, nullptr);
    constexpr uint64_t kTokens = 3200;
    Sequence* sequence = filled(*engine, world, test_rope(world), kTokens);
    const ResidencyCounts places = counts_of(*engine);
    EXPECT_GT(places.memory_pages[0], 0U);
    EXPECT_GT(places.pages, places.memory_pages[0] + places.memory_pages[1]) << "none is on disk alone";
    const Output output = run_step(*engine, world, sequence, kTokens, 1);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    EXPECT_LT(relative_error(output.out[0].data(), attend_reference(world, 0, kTokens)), 1e-4);
    EXPECT_EQ(engine->counters().carried_pages.load() > 0, speeds.link > 1);
  }
}

// A token each of two sequences, whose ropes differ, twice.
TEST_F(CudaEngine, SequencesOfAStepTurnByTheirOwnRopes) {
  const World world = pre_rope_world(CodecId::kF32);
  Rope other = test_rope(world);
  other.rotary_dim = world.head_dim / 2;
  other.inv_freq.clear();
  for (uint32_t i = 0; i < other.rotary_dim / 2; ++i) other.inv_freq.push_back(std::pow(1e4, -4.0 * i / 64));
  std::vector<std::vector<float>> both[2];
  for (const bool on_device : {false, true}) {
    const auto engine = on_device ? open_on_device(world) : open_engine(on_cpu(world));
    ASSERT_NE(engine, nullptr);
    Sequence* first = filled(*engine, world, test_rope(world), 192);
    Sequence* second = filled(*engine, world, other, 192);
    for (uint64_t position = 192; position < 194; ++position) {
      const std::array<StepRequest, 2> requests{StepRequest{first, position, 1},
                                                StepRequest{second, position, 1}};
      Result<std::unique_ptr<OpenStep>> step = engine->cache().begin(requests);
      ASSERT_TRUE(step.ok()) << step.status().message();
      for (uint32_t layer = 0; layer < world.layers; ++layer) {
        const auto twice = [&](Row row) {
          const std::vector<float> one = rows(world, row, layer, position, 1);
          std::vector<float> all = one;
          all.insert(all.end(), one.begin(), one.end());
          return all;
        };
        const std::vector<float> keys = twice(Row::kKey);
        const std::vector<float> values = twice(Row::kValue);
        const std::vector<float> queries = twice(Row::kQuery);
        ASSERT_TRUE(engine->cache()
                        .append(step->get(), layer, view(keys, world.head_dim, world.kv_heads),
                                view(values, world.head_dim, world.kv_heads))
                        .ok());
        std::vector<float> out(queries.size());
        const TensorView q = view(queries, world.head_dim, world.query_heads);
        const AttendArgs args{1 / std::sqrt(static_cast<float>(world.head_dim)),
                              q,
                              {out.data(), DType::kF32, q.token_stride, q.head_stride},
                              0,
                              nullptr,
                              nullptr};
        ASSERT_TRUE(engine->cache().attend(step->get(), layer, args).ok());
        ASSERT_TRUE(engine->cache().wait(step->get()).ok());
        both[on_device ? 1 : 0].push_back(std::move(out));
      }
      ASSERT_TRUE(engine->cache().end(step->get()).ok());
    }
  }
  ASSERT_EQ(both[0].size(), both[1].size());
  for (size_t i = 0; i < both[0].size(); ++i) {
    for (size_t at = 0; at < both[0][i].size(); at += world.head_dim) {
      const auto begin = both[0][i].begin() + static_cast<ptrdiff_t>(at);
      const std::vector<double> expected(begin, begin + world.head_dim);
      EXPECT_LT(relative_error(both[1][i].data() + at, expected), 1e-4) << i << ", " << at;
    }
    const auto half = static_cast<ptrdiff_t>(both[1][i].size() / 2);
    EXPECT_FALSE(std::equal(both[1][i].begin(), both[1][i].begin() + half, both[1][i].begin() + half));
  }
}

}  // namespace
}  // namespace quire::testing
