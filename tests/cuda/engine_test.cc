// The whole engine with pages on an emulated device: the bytes it folds are the CPU's, and its attention
// agrees with f64 attention over what those bytes decode to, and with the CPU engine's, wherever the pages
// lie.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kvcache/page_device_cuda.h"
#include "tests/emu/control.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class CudaEngine : public ::testing::Test {
 protected:
  void TearDown() override {
    emu::settings() = {};
    emu::reset_errors();
    EXPECT_EQ(emu::counters().allocations, 0U);
  }
};

World small_world(CodecId codec) {
  World world;
  world.key_codec = world.value_codec = codec;
  world.page_tokens = 64;
  world.max_step_tokens = 128;
  world.threads = 2;
  return world;
}

Result<std::unique_ptr<Engine>> try_open_on_device(const World& world, uint64_t device_budget) {
  EngineOptions options = engine_options(world);
  options.device_budget = device_budget;
  options.open_page_device = [](const PageDeviceSetup& setup) { return create_cuda_page_device(setup); };
  return Engine::open(std::move(options));
}

std::unique_ptr<Engine> open_on_device(const World& world, uint64_t device_budget = 16 * kMiB) {
  Result<std::unique_ptr<Engine>> engine = try_open_on_device(world, device_budget);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

Sequence* new_sequence(Engine& engine, const World& world) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  return sequence;
}

ResidencyCounts counts_of(Engine& engine) {
  ResidencyLock lock = engine.residency().lock();
  return engine.residency().counts(lock);
}

// The worst relative difference of any row's output.
double worst_difference(const World& world, const Output& a, const Output& b) {
  double worst = 0;
  for (size_t layer = 0; layer < a.out.size(); ++layer) {
    EXPECT_EQ(a.out[layer].size(), b.out[layer].size());
    for (size_t at = 0; at < a.out[layer].size(); at += world.head_dim) {
      const auto begin = b.out[layer].begin() + static_cast<ptrdiff_t>(at);
      const std::vector<double> expected(begin, begin + world.head_dim);
      worst = std::max(worst, relative_error(a.out[layer].data() + at, expected));
    }
  }
  return worst;
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
  for (const CodecId codec : {CodecId::kRot4, CodecId::kInt8}) {
    for (const uint64_t window : {uint64_t{0}, uint64_t{200}}) {
      const World world = small_world(codec);
      const Walk w{500, 128, 5, window};
      const auto cpu = open_engine(world);
      const Output expected = walk(*cpu, world, w);
      const auto engine = open_on_device(world);
      ASSERT_NE(engine, nullptr);
      const uint64_t launches = emu::counters().launches;
      const Output output = walk(*engine, world, w);
      EXPECT_GT(emu::counters().launches, launches + 50);
      EXPECT_EQ(counts_of(*engine).memory_pages[0], 7 * world.layers);
      EXPECT_EQ(counts_of(*engine).memory_pages[1], 0U);
      const double worst = worst_difference(world, output, expected);
      RecordProperty("worst", std::to_string(worst));
      EXPECT_LT(worst, tolerance(codec)) << find_codec(codec)->name << ", window " << window;
      EXPECT_GT(worst, 0) << "the device had no part in it";
      ++cases;
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

}  // namespace
}  // namespace quire::testing
