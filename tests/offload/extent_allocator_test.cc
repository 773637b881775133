#include "offload/extent_allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace quire {
namespace {

constexpr uint32_t kKiB = 1 << 10;

TEST(ExtentAllocator, HandsOutFreshSpaceFromTheFront) {
  ExtentAllocator allocator(8U << 20);
  EXPECT_EQ(allocator.allocate(kMinExtentBytes), 0U);
  EXPECT_EQ(allocator.allocate(kMinExtentBytes), uint64_t{128} * kKiB);
  EXPECT_EQ(allocator.allocate(512 * kKiB), uint64_t{512} * kKiB);
  EXPECT_EQ(allocator.used(), uint64_t{768} * kKiB);
}

TEST(ExtentAllocator, ACapacityOfAnySizeIsUsedToItsLastUnit) {
  ExtentAllocator allocator((4U << 20) + 5 * kMinExtentBytes + 1000);
  EXPECT_EQ(allocator.capacity(), (4U << 20) + 5 * kMinExtentBytes);
  EXPECT_TRUE(allocator.allocate(4U << 20));
  EXPECT_FALSE(allocator.allocate(4U << 20));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(allocator.allocate(kMinExtentBytes)) << i;
  EXPECT_FALSE(allocator.allocate(kMinExtentBytes));
  EXPECT_EQ(allocator.used(), allocator.capacity());
}

TEST(ExtentAllocator, LargestSaysWhatAllocateGrants) {
  ExtentAllocator allocator(1U << 20);
  EXPECT_EQ(allocator.largest(kMaxExtentBytes), 1U << 20);
  EXPECT_EQ(allocator.largest(256 * kKiB), 256 * kKiB);
  ASSERT_TRUE(allocator.allocate(kMinExtentBytes));
  EXPECT_EQ(allocator.largest(kMaxExtentBytes), 512 * kKiB);
  ASSERT_TRUE(allocator.allocate(512 * kKiB));
  ASSERT_TRUE(allocator.allocate(256 * kKiB));
  ASSERT_TRUE(allocator.allocate(kMinExtentBytes));
  EXPECT_EQ(allocator.largest(kMaxExtentBytes), 0U);
}

// Against a map of what is in use.
TEST(ExtentAllocator, RandomUseNeverOverlapsAndMergesBack) {
  constexpr uint64_t kCapacity = (64U << 20) + 3 * kMinExtentBytes;
  ExtentAllocator allocator(kCapacity);
  std::mt19937 random(7);
  std::map<uint64_t, uint32_t> in_use;
  uint64_t used = 0;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0) {
      const uint32_t bytes = kMinExtentBytes << (random() % 6);
      const bool promised = allocator.largest(bytes) == bytes;
      const auto offset = allocator.allocate(bytes);
      ASSERT_EQ(offset.has_value(), promised);
      if (!offset) continue;
      ASSERT_EQ(*offset % bytes, 0U);
      ASSERT_LE(*offset + bytes, kCapacity);
      const auto next = in_use.lower_bound(*offset);
      ASSERT_TRUE(next == in_use.end() || next->first >= *offset + bytes);
      ASSERT_TRUE(next == in_use.begin() || std::prev(next)->first + std::prev(next)->second <= *offset);
      in_use[*offset] = bytes;
      used += bytes;
    } else if (!in_use.empty()) {
      auto victim = in_use.lower_bound(random() % kCapacity);
      if (victim == in_use.end()) victim = in_use.begin();
      allocator.free(victim->first, victim->second);
      used -= victim->second;
      in_use.erase(victim);
    }
    ASSERT_EQ(allocator.used(), used);
  }
  for (const auto& [offset, bytes] : in_use) allocator.free(offset, bytes);
  for (uint32_t i = 0; i < 16; ++i) EXPECT_TRUE(allocator.allocate(kMaxExtentBytes)) << i;
  EXPECT_EQ(allocator.used(), 64U << 20);
}

}  // namespace
}  // namespace quire
