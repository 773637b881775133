// The byte budget against what the operating system says this process uses.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

// Resident bytes of this process, without pages of files.
uint64_t anonymous_resident_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "RssAnon: %llu kB", &kib) == 1) return uint64_t{kib} << 10;
  }
  return 0;
}

Status append_all(Engine& engine, const World& world, Sequence* sequence, uint64_t first, uint64_t count) {
  const std::vector<float> keys = rows(world, Row::kKey, 0, first, count);
  const TensorView kv = view(keys, world.head_dim, world.kv_heads);
  const StepRequest request{sequence, first, count};
  auto step = engine.cache().begin({&request, 1});
  Status status = step.status();
  for (uint32_t layer = 0; layer < world.layers && status.ok(); ++layer) {
    status = engine.cache().append(step->get(), layer, kv, kv);
    if (status.ok()) status = engine.cache().wait(step->get());
  }
  if (step.ok() && status.ok()) status = engine.cache().end(step->get());
  return status;
}

// Sanitizers keep shadow memory and freed blocks resident: what the system counts is then theirs.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

class Memory : public ::testing::TestWithParam<CodecId> {};

TEST_P(Memory, StaysWithinTheBudgetBySystemAccounts) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory hides the cache's";
  World world;
  world.layers = 4;
  world.kv_heads = 8;
  world.query_heads = 16;
  world.head_dim = 128;
  world.page_tokens = 64;
  world.key_codec = world.value_codec = GetParam();
  world.max_step_tokens = 256;
  world.host_budget = uint64_t{96} << 20;
  world.nvme_budget = uint64_t{1} << 30;
  const uint64_t before = anonymous_resident_bytes();
  ASSERT_GT(before, 0U);
  const auto engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  uint64_t most = 0;
  for (uint64_t first = 0; first < 10240; first += 256) {
    const Status status = append_all(*engine, world, sequence, first, 256);
    ASSERT_TRUE(status.ok()) << status.message();
    most = std::max(most, anonymous_resident_bytes());
  }
  const Output output = run_step(*engine, world, sequence, 10240, 1);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  most = std::max(most, anonymous_resident_bytes());

  const Budget& budget = engine->host_budget();
  // Beside the budget: the test's own tensors (under 3 MiB), stacks, and the allocator's slack.
  constexpr uint64_t kBeside = uint64_t{8} << 20;
  EXPECT_LE(budget.peak(), world.host_budget);
  EXPECT_LE(most - before, budget.peak() + kBeside);
  // And the budget is not fiction: most of what it counts is there.
  EXPECT_GE(most - before + kBeside, budget.peak() * 8 / 10);
  uint64_t sum = 0;
  for (size_t use = 0; use < kUseCount; ++use) sum += budget.used(static_cast<Use>(use));
  EXPECT_EQ(sum, budget.used());
  std::printf("[memory] budget %llu MiB, peak charged %.1f MiB, resident growth %.1f MiB\n",
              static_cast<unsigned long long>(world.host_budget >> 20),
              static_cast<double>(budget.peak()) / 0x1p20, static_cast<double>(most - before) / 0x1p20);
}

INSTANTIATE_TEST_SUITE_P(Codecs, Memory, ::testing::Values(CodecId::kBf16, CodecId::kRot4),
                         [](const auto& test) { return std::string(find_codec(test.param)->name); });

}  // namespace
}  // namespace quire::testing
