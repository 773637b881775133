// The whole engine with pages on a device: its attention agrees with the CPU engine's and with f64 attention
// over the values as they were handed in, wherever the pages lie; what it refuses, and what a lost device is.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

// Layers of nuq codecs have levels of their own.
World small_world(CodecId codec) {
  World world;
  world.key_codec = world.value_codec = codec;
  world.page_tokens = 64;
  world.max_step_tokens = 128;
  world.threads = 2;
  world.device_budget = 16 * kMiB;
  if (find_codec(codec)->family == CodecFamily::kNonUniform) {
    for (int i = 0; i < 1 << find_codec(codec)->bits; ++i) {
      world.key_levels.push_back(static_cast<int8_t>(-127 + 16 * i));
      world.value_levels.push_back(static_cast<int8_t>(-90 + 13 * i));
    }
  }
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

// The CPU's own attention over folded pages, the device's (tiles of prefill take weights of 8 bits),
// together.
double tolerance(CodecId codec) { return codec == CodecId::kInt8 ? 2e-3 : 2.5e-2; }

struct Walk {
  uint64_t prefill;
  uint64_t chunk;
  uint64_t decode;
  uint64_t window = 0;
};

Output walk(Engine& engine, const World& world, const Walk& w) {
  Sequence* sequence = new_sequence(engine, world);
  Output output = run_chunks(engine, world, sequence, 0, w.prefill, w.chunk, w.window);
  EXPECT_TRUE(output.status.ok()) << output.status.message();
  const Output more = run_chunks(engine, world, sequence, w.prefill, w.decode, 1, w.window);
  EXPECT_TRUE(more.status.ok()) << more.status.message();
  output.extend(more);
  return output;
}

TEST_F(CudaEngine, AttendsAsTheCpuDoesInPrefillAndDecode) {
  uint32_t cases = 0;
  for (const CodecId codec : {CodecId::kRot4, CodecId::kInt8, CodecId::kNuq4s}) {
    for (const uint64_t window : {uint64_t{0}, uint64_t{200}}) {
      const World world = small_world(codec);
      const Walk w{500, 128, 5, window};
      const Output expected = walk(*open_engine(on_cpu(world)), world, w);
      for_all_capabilities([&] {
        const auto engine = open_on_device(world);
        ASSERT_NE(engine, nullptr);
        const Launches launches;
        const Output output = walk(*engine, world, w);
        launches.expect_more_than(50);
        EXPECT_EQ(counts_of(*engine).memory_pages[0], 7 * world.layers);
        EXPECT_EQ(counts_of(*engine).memory_pages[1], 0U);
        const double worst = worst_difference(world, output, expected);
        RecordProperty("worst", std::to_string(worst));
        EXPECT_LT(worst, tolerance(codec)) << find_codec(codec)->name << ", window " << window;
        EXPECT_GT(worst, 0) << "the device had no part in it";
        ++cases;
      });
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

// Little room on the device and in host memory, and a disk.
World tight_world(CodecId codec) {
  World world = small_world(codec);
  world.max_step_tokens = 64;
  world.nvme_budget = 64 * kMiB;
  world.device_budget = least(world, &World::device_budget) + kMiB / 4;
  world.host_budget = least(world, &World::host_budget) + kMiB / 2;
  return world;
}

TEST_F(CudaEngine, MixedPlacesAttendAsF64Does) {
  uint32_t cases = 0;
  for (const CodecId codec : {CodecId::kF32, CodecId::kInt8}) {
    const World world = tight_world(codec);
    const auto engine = open_on_device(world);
    ASSERT_NE(engine, nullptr);
    Sequence* sequence = new_sequence(*engine, world);
    uint64_t tokens = 0;
    for (; tokens < (codec == CodecId::kF32 ? 1600 : 4800); tokens += 64) {
      const Status status = append_tokens(*engine, world, sequence, tokens, 64);
      ASSERT_TRUE(status.ok()) << status.message();
    }
    const ResidencyCounts counts = counts_of(*engine);
    EXPECT_GT(counts.memory_pages[0], 0U);
    EXPECT_GT(counts.memory_pages[1], 0U);
    EXPECT_GT(counts.pages, counts.memory_pages[0] + counts.memory_pages[1]) << "none is on disk alone";
    EXPECT_EQ(counts.lost_pages, 0U);
    for (const uint64_t window : {uint64_t{0}, tokens / 2}) {
      const Output decode = run_step(*engine, world, sequence, tokens, 1, window);
      ASSERT_TRUE(decode.status.ok()) << decode.status.message();
      for (uint32_t layer = 0; layer < world.layers; ++layer) {
        const double error =
            relative_error(decode.out[layer].data(), attend_reference(world, layer, tokens, window));
        EXPECT_LT(error, codec == CodecId::kF32 ? 1e-4 : 1.5e-2) << find_codec(codec)->name;
      }
      ++tokens;
      ++cases;
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

TEST_F(CudaEngine, RefusesWhatDoesNotFit) {
  const auto refusal = [](const World& world) {
    const Result<std::unique_ptr<Engine>> engine = try_open_on_device(world);
    EXPECT_FALSE(engine.ok());
    return engine.status();
  };
  World world = small_world(CodecId::kRot4);
  world.device_budget = 0;
  EXPECT_NE(refusal(world).message().find("device_budget is 0"), std::string::npos);
  world.device_budget = kMiB / 4;
  EXPECT_EQ(refusal(world).code(), StatusCode::kOverBudget);
  EXPECT_NE(refusal(world).message().find("no room for the work space"), std::string::npos);
  // The work space fits, and then nothing.
  uint64_t work = kMiB / 4;
  while (refusal(world).code() == StatusCode::kOverBudget) world.device_budget = work += 4096;
  EXPECT_EQ(refusal(world).code(), StatusCode::kInvalid);
  EXPECT_NE(refusal(world).message().find("the pages of one step need"), std::string::npos);
}

#if !defined(QUIRE_CUDA_DEVICE)

TEST_F(CudaEngine, ALostDeviceIsAStatusForGoodAndNoneOfOtherEngines) {
  const World world = small_world(CodecId::kRot4);
  const auto engine = open_on_device(world);
  const auto other = open_engine(on_cpu(world));
  Sequence* sequence = new_sequence(*engine, world);
  Sequence* theirs = new_sequence(*other, world);
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, 200, 100).status.ok());
  emu::lose_device();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(run_step(*engine, world, sequence, 200, 100).status.code(), StatusCode::kDeviceLost);
  }
  EXPECT_EQ(engine->cache().truncate(sequence, 70).code(), StatusCode::kDeviceLost);
  EXPECT_EQ(engine->cache().length(sequence), 200U);
  EXPECT_TRUE(run_chunks(*other, world, theirs, 0, 300, 100).status.ok());
  EXPECT_TRUE(engine->cache().free(sequence).ok());
}

#endif

}  // namespace
}  // namespace quire::testing
