// Pages that the engine folds on a device: byte for byte the CPU engine's, also after truncation, in forks,
// beyond the range of codecs, and when they come from a store.
#include <gtest/gtest.h>

#include <random>

#include "tests/cuda/engine_runner.h"
#include "tests/support/temporary_store.h"

namespace quire::testing {
namespace {

World small_world(CodecId codec) {
  World world;
  world.key_codec = world.value_codec = codec;
  world.page_tokens = 64;
  world.max_step_tokens = 128;
  world.threads = 2;
  world.device_budget = 16 * kMiB;
  return world;
}

std::unique_ptr<Engine> open_on_cpu(World world) {
  world.device_budget = 0;
  return open_engine(world);
}

Sequence* new_sequence(Engine& engine, const World& world) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  return sequence;
}

void extend(Engine& engine, const World& world, Sequence* sequence, uint64_t first, uint64_t count) {
  const Output output = run_chunks(engine, world, sequence, first, count, world.max_step_tokens);
  EXPECT_TRUE(output.status.ok()) << output.status.message();
}

TEST_F(CudaEngine, FoldsTheBytesOfTheCpu) {
  uint32_t cases = 0;
  for (const CodecId codec : {CodecId::kF32, CodecId::kBf16, CodecId::kInt8, CodecId::kInt4, CodecId::kRot4,
                              CodecId::kRot2, CodecId::kTcq3, CodecId::kNuq3s}) {
    for (const uint32_t page_tokens : {32U, 64U}) {
      World world = small_world(codec);
      world.page_tokens = page_tokens;
      world.key_space = page_tokens == 32 ? KeySpace::kPreRope : KeySpace::kPostRope;
      world.layers = 1;
      const auto cpu = open_on_cpu(world);
      const auto device = open_on_device(world);
      ASSERT_NE(device, nullptr);
      Sequence* theirs = new_sequence(*cpu, world);
      Sequence* ours = new_sequence(*device, world);
      extend(*cpu, world, theirs, 0, 200);
      extend(*device, world, ours, 0, 200);
      const Pages expected = pages_of(*cpu, theirs);
      EXPECT_EQ(expected.size(), 200 / page_tokens);
      EXPECT_EQ(pages_of(*device, ours), expected) << find_codec(codec)->name;
      ++cases;
    }
  }
  std::printf("[counts] cases=%u\n", cases);
}

TEST_F(CudaEngine, FoldsBytesOfForksAndTruncatedSequencesAsTheCpu) {
  World world = small_world(CodecId::kRot4);
  world.digests = true;
  World other = world;
  other.seed = 9;
  const auto walk = [&](Engine& engine) {
    Sequence* sequence = new_sequence(engine, world);
    extend(engine, world, sequence, 0, 300);
    Sequence* fork = *engine.cache().fork(sequence);
    EXPECT_TRUE(engine.cache().truncate(sequence, 200).ok());  // inside a page, which is opened again
    extend(engine, world, sequence, 200, 100);
    extend(engine, other, fork, 300, 100);
    Pages pages = pages_of(engine, sequence);
    for (auto& page : pages_of(engine, fork)) pages.push_back(std::move(page));
    EXPECT_TRUE(engine.cache().free(sequence).ok());
    EXPECT_TRUE(engine.cache().truncate(fork, 2).ok());  // into the sinks
    extend(engine, world, fork, 2, 100);
    for (auto& page : pages_of(engine, fork)) pages.push_back(std::move(page));
    for (auto& digest : digests_of(engine, fork)) pages.push_back(std::move(digest));
    return pages;
  };
  const Pages expected = walk(*open_on_cpu(world));
  EXPECT_EQ(expected.size(), world.layers * (4U + 6U + 1U + 1U));
  EXPECT_EQ(walk(*open_on_device(world)), expected);
}

TEST_F(CudaEngine, ClampsBytesBeyondACodecsRangeAsTheCpu) {
  uint32_t cases = 0;
  for (const CodecId codec : {CodecId::kRot4, CodecId::kTcq3}) {
    const World world = small_world(codec);
    const auto walk = [&](Engine& engine) {
      Sequence* sequence = new_sequence(engine, world);
      constexpr float kHuge = 6e37F;  // brings keys and values near the largest f32
      const Status status = append_tokens(engine, world, sequence, 0, 128, kHuge);
      EXPECT_TRUE(status.ok()) << status.message();
      return pages_of(engine, sequence);
    };
    const Pages expected = walk(*open_on_cpu(world));
    EXPECT_EQ(expected.size(), world.layers * 2);
    EXPECT_EQ(walk(*open_on_device(world)), expected) << find_codec(codec)->name;
    ++cases;
  }
  std::printf("[counts] cases=%u\n", cases);
}

std::unique_ptr<Engine> open_with_store(const World& world, const std::string& path, bool on_device) {
  EngineOptions options = engine_options(world);
  if (on_device) {
    options.open_page_device = [](const PageDeviceSetup& setup) { return create_cuda_page_device(setup); };
  } else {
    options.device_budget = 0;
  }
  options.store_path = path;
  options.store_budget = 8 * kMiB;
  options.model_fingerprint = {1, 2};
  Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(options));
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

PrefixChain chain_of(const Engine& engine, uint64_t count) {
  std::vector<int32_t> tokens;
  for (uint64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(i));
  const PrefixScope scope{engine.model_fingerprint(), {7, 0}, 0, 1, layout_hash(engine.config())};
  return make_chain(scope, engine.config().page_tokens, tokens);
}

TEST_F(CudaEngine, AdoptsBytesOfAStoreThatTheCpuWroteAndTheOtherWayRound) {
  World world = small_world(CodecId::kRot4);
  world.digests = true;
  for (const bool written_on_device : {false, true}) {
    const TemporaryStore store;
    Pages expected;
    Pages digests;
    {
      const auto writer = open_with_store(world, store.path(), written_on_device);
      Sequence* sequence = new_sequence(*writer, world);
      extend(*writer, world, sequence, 0, 200);
      const Result<uint64_t> stored = writer->prefixes().publish(sequence, chain_of(*writer, 200));
      ASSERT_TRUE(stored.ok()) << stored.status().message();
      EXPECT_EQ(*stored, 3U);
      expected = pages_of(*writer, sequence);
      digests = digests_of(*writer, sequence);
    }
    const auto reader = open_with_store(world, store.path(), !written_on_device);
    Sequence* sequence = new_sequence(*reader, world);
    PrefixChain chain = chain_of(*reader, 200);
    const Result<uint64_t> adopted = reader->prefixes().adopt(sequence, &chain);
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    ASSERT_EQ(*adopted, 192U);
    EXPECT_EQ(pages_of(*reader, sequence), expected);
    EXPECT_EQ(digests_of(*reader, sequence), digests);
    const Output output = run_step(*reader, world, sequence, 192, 8);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    const float* last = output.out[1].data() + size_t{7} * world.query_row();
    EXPECT_LT(relative_error(last, attend_reference(world, 1, 199)), 0.2);
  }
}

}  // namespace
}  // namespace quire::testing
