// Contexts of several waves on the device: they are given to it one after another, and waited for together,
// as far as its space goes; the output is f64 attention's.
#include <gtest/gtest.h>

#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

constexpr uint64_t kPages = 600;  // two waves

#if defined(QUIRE_CUDA_DEVICE)
uint64_t waits() { return 0; }
#else
uint64_t waits() { return emu::counters().waits; }
#endif

TEST_F(CudaEngine, WavesOfALongContextAreWaitedForOnce) {
  const World world = world_of_small_pages();
  const auto engine = open_on_device(world);
  ASSERT_NE(engine, nullptr);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
  uint64_t tokens = 0;
  for (; tokens < kPages * world.page_tokens; tokens += 64) {
    ASSERT_TRUE(append_tokens(*engine, world, sequence, tokens, 64).ok());
  }
  ASSERT_EQ(counts_of(*engine).memory_pages[0], kPages);
  // A token; one that sees a window, of two waves; and a chunk of two tiles.
  struct Case {
    uint64_t count, window, most_waits;
  };
  uint32_t cases = 0;
  for (const Case& c : {Case{1, 0, 1}, Case{1, 18000, 1}, Case{40, 0, 1}}) {
    const uint64_t before = waits();
    const Output output = run_step(*engine, world, sequence, tokens, c.count, c.window);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    const uint64_t of_sealing = (tokens + c.count) / world.page_tokens > tokens / world.page_tokens ? 2 : 0;
    EXPECT_LE(waits() - before, c.most_waits + of_sealing) << c.count << " tokens, window " << c.window;
    for (const uint64_t i : {uint64_t{0}, c.count - 1}) {
      const std::vector<double> truth = attend_reference(world, 0, tokens + i, c.window);
      EXPECT_LT(relative_error(output.out[0].data() + i * world.query_row(), truth), 2e-4)
          << "token " << i << " of " << c.count << ", window " << c.window;
    }
    tokens += c.count;
    ++cases;
  }
  std::printf("[counts] cases=%u\n", cases);
}

// Of pages that do not fit the device some come up with each wave, into frames that the waves share in turns;
// the CPU attends the others.
TEST_F(CudaEngine, WavesThatBringPagesAlongAreWaitedForOnce) {
  constexpr AttendSpeeds kFastLink{1e15, 1, 1e15};
  constexpr uint64_t kColdPages = 1100;  // three waves of them
  World world = world_of_small_pages();
  world.device_budget = least(world, &World::device_budget) + kMiB;
  world.speeds = kFastLink;
  const auto engine = open_on_device(world);
  ASSERT_NE(engine, nullptr);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
  uint64_t tokens = 0;
  for (; counts_of(*engine).memory_pages[1] < kColdPages; tokens += 64) {
    ASSERT_TRUE(append_tokens(*engine, world, sequence, tokens, 64).ok());
  }
  const uint32_t room = engine->page_device()->carry_room();
  ASSERT_GT(room, 0U);
  const uint64_t before = waits();
  const Output output = run_step(*engine, world, sequence, tokens, 1);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  EXPECT_LE(waits() - before, 1U);
  EXPECT_GE(engine->counters().carried_pages.load(), 3 * room) << "frames are used again";
  EXPECT_GT(engine->counters().host_attended_pages.load(), 0U);
  EXPECT_LT(relative_error(output.out[0].data(), attend_reference(world, 0, tokens)), 2e-4);
}

}  // namespace
}  // namespace quire::testing
