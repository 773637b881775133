// When an engine pins the host memory of its pages, and what it does where the system pins no more.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <thread>

#include "kvcache/os_memory.h"
#include "kvcache/pinned_memory_cuda.h"
#include "tests/cuda/engine_runner.h"

namespace quire::testing {
namespace {

constexpr uint64_t kPages = 160;

// Some 90 pages of 8 KiB fit the device, the others are in host memory.
World two_places() {
  World world;
  world.layers = 1;
  world.key_codec = world.value_codec = CodecId::kInt8;
  world.page_tokens = 32;
  world.max_step_tokens = 64;
  world.threads = 2;
  world.host_budget = PinnedMemory::kSpareBytes * PinnedMemory::kSpareShare;
  world.device_budget = 16 * kMiB;
  world.device_budget = least(world, &World::device_budget) + 7 * kMiB / 8;
  world.speeds = {1e15, 1, 1e15};  // carry all that can be
  return world;
}

Sequence* fill(Engine& engine, const World& world) {
  Sequence* sequence = *engine.cache().create_sequence();
  EXPECT_TRUE(engine.cache().set_rope(sequence, test_rope(world)).ok());
  for (uint64_t at = 0; at < kPages * world.page_tokens; at += 64) {
    EXPECT_TRUE(append_tokens(engine, world, sequence, at, 64).ok());
  }
  return sequence;
}

// Chunks that host pages of a sequence fill, and those ahead, of each size.
uint64_t chunks_wanted(Engine& engine, const Sequence* sequence) {
  constexpr size_t kChunkBytes = size_t{256} << 10;
  const ResidencyLock lock = engine.residency().lock();
  std::map<size_t, size_t> pages;  // of a size
  for (const Page* page : sequence->layers[0].table->pages) {
    if (page->slot[1] != nullptr) ++pages[page->bytes];
  }
  uint64_t chunks = 0;
  for (const auto& [bytes, count] : pages) {
    const size_t slots = round_to_os_pages((kChunkBytes + bytes - 1) / bytes * bytes) / bytes;
    chunks += (count + slots - 1) / slots + PinnedMemory::kAhead;
  }
  return chunks;
}

TEST_F(CudaEngine, HostMemoryIsPinnedWithItsFirstPagesAndOnce) {
  const World world = two_places();
  const auto engine = open_on_device(world);
  ASSERT_NE(engine, nullptr);
  EXPECT_LT(emu::counters().pinned_bytes, world.host_budget / 16) << "what has a fixed size alone";
  const uint64_t opened = emu::counters().pinnings;
  Sequence* sequence = fill(*engine, world);
  const uint64_t chunks = chunks_wanted(*engine, sequence);
  ASSERT_GT(chunks, PinnedMemory::kAhead + 2);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (emu::counters().pinnings < opened + chunks && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(emu::counters().pinnings, opened + chunks);
  ASSERT_TRUE(engine->cache().free(sequence).ok());
  fill(*engine, world);
  EXPECT_EQ(emu::counters().pinnings, opened + chunks) << "chunks of the first sequence serve the next";
}

TEST_F(CudaEngine, WhatIsNotPinnedIsAttendedByTheHost) {
  const World world = two_places();
  for (const uint64_t allowed : {uint64_t{0}, kMiB / 2}) {
    const auto engine = open_on_device(world);
    ASSERT_NE(engine, nullptr);
    ASSERT_GT(engine->page_device()->carry_room(), 0U);
    emu::settings().pinned_bytes = emu::counters().pinned_bytes + allowed;
    Sequence* sequence = fill(*engine, world);
    EXPECT_EQ(engine->page_device()->carry_room(), 0U);
    const uint64_t tokens = kPages * world.page_tokens;
    const Output output = run_step(*engine, world, sequence, tokens, 1);
    ASSERT_TRUE(output.status.ok()) << output.status.message();
    EXPECT_EQ(engine->counters().carried_pages.load(), 0U);
    EXPECT_GT(engine->counters().host_attended_pages.load(), 0U);
    EXPECT_LT(relative_error(output.out[0].data(), attend_reference(world, 0, tokens)), 1.5e-2);
    emu::settings() = {};
  }
}

// Its own work space is not pages: there is no going on without it.
TEST_F(CudaEngine, WithoutPinnedWorkSpaceItDoesNotOpen) {
  const World world = two_places();
  emu::settings().pinned_bytes = emu::counters().pinned_bytes;
  const Status status = try_open_on_device(world).status();
  EXPECT_EQ(status.code(), StatusCode::kOverBudget);
  EXPECT_NE(status.message().find("pinning"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace quire::testing
