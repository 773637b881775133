// Attention over pages on the device and in host memory: speeds decide where the latter are attended,
// counters tell it, and the output is what a CPU engine and f64 attention give in any case.
#include <gtest/gtest.h>

#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

constexpr AttendSpeeds kSlowLink{1, 1e12, 1e12};
constexpr AttendSpeeds kFastLink{1e15, 1, 1e15};

// Pages of 8 KiB and a little; the device keeps some 90 of them for one layer and has frames for a few.
World tight_device() {
  World world;
  world.layers = 1;
  world.key_codec = world.value_codec = CodecId::kInt8;
  world.page_tokens = 32;
  world.max_step_tokens = 64;
  world.threads = 2;
  world.device_budget = 16 * kMiB;
  world.device_budget = least(world, &World::device_budget) + 7 * kMiB / 8;
  return world;
}

struct Counts {
  uint64_t host, device, carried, carried_bytes;
};

Counts counts_now(const Engine& engine) {
  const CacheCounters& c = engine.counters();
  return {c.host_attended_pages.load(), c.device_attended_pages.load(), c.carried_pages.load(),
          c.carried_bytes.load()};
}

struct Walked {
  Output output;       // of a chunk and of a token behind it
  Counts counts;       // of these
  uint64_t on_device;  // pages, of one layer
  uint64_t cold;
};

// Fills the device and `cold` pages more.
Walked walk(Engine& engine, const World& world, uint64_t pages) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  const uint64_t tokens = pages * world.page_tokens;
  for (uint64_t at = 0; at < tokens; at += 64) {
    EXPECT_TRUE(append_tokens(engine, world, sequence, at, 64).ok());
  }
  const ResidencyCounts places = counts_of(engine);
  const Counts before = counts_now(engine);
  Walked walked{run_step(engine, world, sequence, tokens, 20), {}, places.memory_pages[0], 0};
  EXPECT_TRUE(walked.output.status.ok()) << walked.output.status.message();
  const Output more = run_step(engine, world, sequence, tokens + 20, 1);
  EXPECT_TRUE(more.status.ok()) << more.status.message();
  walked.output.extend(more);
  const Counts after = counts_now(engine);
  walked.counts = {after.host - before.host, after.device - before.device, after.carried - before.carried,
                   after.carried_bytes - before.carried_bytes};
  walked.cold = places.pages - places.memory_pages[0];
  return walked;
}

// As many pages as leave `cold` of them in host memory.
uint64_t pages_with_cold(const World& world, uint64_t cold) {
  const auto engine = open_on_device(world);
  Sequence* sequence = *engine->cache().create_sequence();
  EXPECT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
  uint64_t tokens = 0;
  for (; counts_of(*engine).memory_pages[1] < cold; tokens += 64) {
    EXPECT_TRUE(append_tokens(*engine, world, sequence, tokens, 64).ok());
  }
  return tokens / world.page_tokens;
}

TEST_F(CudaEngine, LinkSpeedDecidesWhereColdPagesAreAttended) {
  World world = tight_device();
  const uint64_t pages = pages_with_cold(world, 2);
  World cpu = world;
  cpu.device_budget = 0;
  const Walked expected = walk(*open_engine(cpu), cpu, pages);
  EXPECT_EQ(expected.counts.host, 2 * pages);
  EXPECT_EQ(expected.counts.device + expected.counts.carried, 0U);

  uint32_t cases = 0;
  // The last: a page takes a second to come up and a second of the CPU, times the rows that see it.
  for (const AttendSpeeds& speeds :
       {kSlowLink, kFastLink, AttendSpeeds{}, AttendSpeeds{8192, 8192 * 4, 1e15}}) {
    world.speeds = speeds;
    const auto engine = open_on_device(world);
    ASSERT_NE(engine, nullptr);
    const Walked walked = walk(*engine, world, pages);
    ASSERT_GE(walked.cold, 2U);
    ASSERT_LE(walked.cold, engine->page_device()->carry_room());
    EXPECT_LT(worst_difference(world, walked.output, expected.output), 2e-3);
    EXPECT_EQ(walked.counts.host + walked.counts.device, 2 * pages);
    EXPECT_EQ(walked.counts.device, 2 * walked.on_device + walked.counts.carried);
    EXPECT_EQ(walked.counts.host, 2 * walked.cold - walked.counts.carried);
    EXPECT_GE(walked.counts.carried_bytes, walked.counts.carried * 8192);
    if (speeds.link == kSlowLink.link) {
      EXPECT_EQ(walked.counts.carried, 0U);
    } else if (speeds.link == kFastLink.link) {
      EXPECT_EQ(walked.counts.host, 0U);
    } else if (speeds.link > 0) {
      EXPECT_GT(walked.counts.carried, walked.cold) << "most of the chunk's and half of the token's";
      EXPECT_GT(walked.counts.host, 0U);
    }
    ++cases;
  }
  std::printf("[counts] cases=%u\n", cases);
}

// More is cold than the device has frames for, and nearly all of it comes from disk.
TEST_F(CudaEngine, WhatHasNoFrameStaysOnTheHost) {
  World world = tight_device();
  world.nvme_budget = 64 * kMiB;
  world.host_budget = least(world, &World::host_budget) + kMiB / 16;
  const uint64_t pages = 140;
  for (const AttendSpeeds& speeds : {kSlowLink, kFastLink}) {
    world.speeds = speeds;
    const auto engine = open_on_device(world);
    ASSERT_NE(engine, nullptr);
    const uint32_t room = engine->page_device()->carry_room();
    ASSERT_GT(room, 0U);
    const Walked walked = walk(*engine, world, pages);
    ASSERT_GT(walked.cold, 4 * room);
    const std::vector<double> truth = attend_reference(world, 0, pages * world.page_tokens + 20);
    EXPECT_LT(relative_error(walked.output.out[0].data() + size_t{20} * world.query_row(), truth), 1.5e-2);
    EXPECT_EQ(walked.counts.carried > 0, speeds.link == kFastLink.link);
    EXPECT_GT(walked.counts.host, 0U);
  }
}

// Pages of a sequence that was idle while another filled memory.
TEST_F(CudaEngine, PagesFromDiskAreCarried) {
  World world = tight_device();
  world.nvme_budget = 64 * kMiB;
  world.host_budget = least(world, &World::host_budget) + kMiB / 16;
  world.speeds = kFastLink;
  const auto engine = open_on_device(world);
  ASSERT_NE(engine, nullptr);
  const auto filled = [&](uint64_t pages) {
    Sequence* sequence = *engine->cache().create_sequence();
    EXPECT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
    for (uint64_t at = 0; at < pages * world.page_tokens; at += 64) {
      EXPECT_TRUE(append_tokens(*engine, world, sequence, at, 64).ok());
    }
    return sequence;
  };
  constexpr uint64_t kPages = 30;
  Sequence* idle = filled(kPages);
  filled(100);
  uint64_t in_memory = 0;
  {
    const ResidencyLock lock = engine->residency().lock();
    for (const Page* page : idle->layers[0].table->pages) in_memory += page->memory() != nullptr ? 1 : 0;
  }
  ASSERT_EQ(in_memory, 0U);
  const uint64_t tokens = kPages * world.page_tokens;
  const Output output = run_step(*engine, world, idle, tokens, 1);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  EXPECT_GT(counts_now(*engine).carried, 0U);
  EXPECT_EQ(counts_now(*engine).host + counts_now(*engine).device, kPages);
  EXPECT_LT(relative_error(output.out[0].data(), attend_reference(world, 0, tokens)), 1.5e-2);
}

}  // namespace
}  // namespace quire::testing
