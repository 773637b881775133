// Pinned host memory on the emulator, which counts what is pinned and refuses what is too much.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "kvcache/pinned_memory_cuda.h"
#include "tests/emu/testing.h"

namespace quire {
namespace {

constexpr size_t kChunk = size_t{256} << 10;
constexpr uint64_t kAhead = PinnedMemory::kAhead;
constexpr uint64_t kSpareBytes = PinnedMemory::kSpareBytes;
constexpr uint64_t kEnough = kSpareBytes * PinnedMemory::kSpareShare;

class PinnedMemoryTest : public emu::test::EmuTest {
 protected:
  ~PinnedMemoryTest() override { EXPECT_EQ(emu::counters().pinned_bytes, 0U); }

  uint64_t pinnings() const { return emu::counters().pinnings - before_; }
  // Not before the thread has come so far.
  void expect_pinnings(uint64_t count) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (pinnings() < count && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_EQ(pinnings(), count);
  }
  static bool is_pinned(const uint8_t* data) {
    cudaPointerAttributes attributes{};
    EXPECT_EQ(cudaPointerGetAttributes(&attributes, data), cudaSuccess);
    return attributes.type == cudaMemoryTypeHost;
  }

 private:
  const uint64_t before_ = emu::counters().pinnings;
};

TEST_F(PinnedMemoryTest, NothingIsPinnedBeforeItIsAskedFor) {
  Budget budget(kEnough);
  {
    PinnedMemory memory(0);
    memory.prepare(budget);
    EXPECT_EQ(budget.used(), kSpareBytes);
  }
  EXPECT_EQ(pinnings(), 0U);
  EXPECT_EQ(budget.used(), 0U);
}

TEST_F(PinnedMemoryTest, ASmallBudgetHasNoSpares) {
  Budget budget(kEnough - 1);
  PinnedMemory memory(0);
  memory.prepare(budget);
  EXPECT_EQ(budget.used(), 0U);
  uint8_t* chunk = memory.map(kChunk);
  EXPECT_TRUE(is_pinned(chunk));
  memory.unmap(chunk, kChunk);
  EXPECT_EQ(pinnings(), 1U);
  EXPECT_EQ(emu::counters().pinned_bytes, 0U);
}

TEST_F(PinnedMemoryTest, AFewChunksArePinnedAhead) {
  Budget budget(kEnough);
  PinnedMemory memory(0);
  memory.prepare(budget);
  std::vector<uint8_t*> chunks;
  for (uint64_t count = 1; count <= 20; ++count) {
    chunks.push_back(memory.map(kChunk));
    EXPECT_TRUE(is_pinned(chunks.back()));
    if (count % 2 == 0) expect_pinnings(count + kAhead);
  }
  EXPECT_EQ(std::set<uint8_t*>(chunks.begin(), chunks.end()).size(), chunks.size());
  for (uint8_t* chunk : chunks) memory.unmap(chunk, kChunk);
  EXPECT_TRUE(memory.all_pinned());
}

TEST_F(PinnedMemoryTest, AChunkThatComesBackIsNotPinnedAgain) {
  Budget budget(kEnough);
  PinnedMemory memory(0);
  memory.prepare(budget);
  constexpr uint64_t kChunks = kSpareBytes / kChunk - kAhead;
  for (int round = 0; round < 3; ++round) {
    std::vector<uint8_t*> chunks;
    for (uint64_t i = 0; i < kChunks; ++i) chunks.push_back(memory.map(kChunk));
    expect_pinnings(kChunks + kAhead);
    for (uint8_t* chunk : chunks) memory.unmap(chunk, kChunk);
  }
  EXPECT_EQ(emu::counters().pinned_bytes, kSpareBytes);
}

// Sizes come and go at random: beside what is in use there is never more than what the budget is charged.
TEST_F(PinnedMemoryTest, SparesStayWithinTheirCharge) {
  Budget budget(kEnough);
  PinnedMemory memory(0);
  memory.prepare(budget);
  std::mt19937 random(1);
  std::vector<std::span<uint8_t>> used;
  size_t used_bytes = 0;
  const auto give_back = [&](size_t i) {
    memory.unmap(used[i].data(), used[i].size());
    used_bytes -= used[i].size();
    used.erase(used.begin() + static_cast<ptrdiff_t>(i));
  };
  constexpr std::array<size_t, 5> kSizes{4096, kChunk, kChunk + 8192, size_t{1} << 20, kSpareBytes + 4096};
  for (int step = 0; step < 1000; ++step) {
    const bool more = used.size() < 40 && (used.empty() || random() % 100 < (step / 100 % 2 == 0 ? 70 : 30));
    if (more) {
      const size_t bytes = kSizes[random() % kSizes.size()];
      uint8_t* data = memory.map(bytes);
      ASSERT_TRUE(is_pinned(data));
      data[0] = data[bytes - 1] = 1;
      used.emplace_back(data, bytes);
      used_bytes += bytes;
    } else {
      give_back(random() % used.size());
    }
    ASSERT_LE(emu::counters().pinned_bytes, used_bytes + kSpareBytes);
  }
  while (!used.empty()) give_back(used.size() - 1);
  EXPECT_LE(emu::counters().pinned_bytes, kSpareBytes);
}

TEST_F(PinnedMemoryTest, WhereNoMoreIsPinnedItIsMemoryAsEver) {
  emu::settings().pinned_bytes = 3 * kChunk;
  Budget budget(kEnough);
  PinnedMemory memory(0);
  memory.prepare(budget);
  std::vector<uint8_t*> chunks;
  for (int i = 0; i < 3; ++i) {
    chunks.push_back(memory.map(kChunk));
    EXPECT_TRUE(is_pinned(chunks.back()));
    EXPECT_TRUE(memory.all_pinned()) << "what was refused ahead is nobody's loss";
  }
  for (int i = 0; i < 2; ++i) {
    chunks.push_back(memory.map(kChunk));
    ASSERT_NE(chunks.back(), nullptr);
    EXPECT_FALSE(is_pinned(chunks.back()));
    EXPECT_FALSE(memory.all_pinned());
    std::fill_n(chunks.back(), kChunk, uint8_t{1});
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the next launch would report it";
  for (uint8_t* chunk : chunks) memory.unmap(chunk, kChunk);
  EXPECT_EQ(pinnings(), 3U);
  uint8_t* again = memory.map(kChunk);
  EXPECT_TRUE(is_pinned(again)) << "what is pinned stays so";
  memory.unmap(again, kChunk);
}

TEST_F(PinnedMemoryTest, ALostDeviceGivesMemoryAndEndsTheThread) {
  Budget budget(kEnough);
  PinnedMemory memory(0);
  memory.prepare(budget);
  emu::lose_device();
  uint8_t* chunk = memory.map(kChunk);
  ASSERT_NE(chunk, nullptr);
  EXPECT_FALSE(memory.all_pinned());
  memory.unmap(chunk, kChunk);
}

}  // namespace
}  // namespace quire
