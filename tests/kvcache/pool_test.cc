#include "kvcache/pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "kvcache/os_memory.h"

namespace quire {
namespace {

constexpr size_t kChunkHint = 256 << 10;

TEST(SlotPool, LosesLessThanThreePercentToRounding) {
  for (const uint32_t bytes : {64U, 1088U, 4096U, 4160U, 8640U, 17216U, 69120U, 140032U, 1048640U}) {
    Budget budget(uint64_t{1} << 32);
    SlotPool pool(budget, Use::kPages, kChunkHint);
    // The first allocation tells the size of a chunk, the following ones fill it exactly.
    ASSERT_NE(pool.allocate(bytes), nullptr);
    const uint64_t chunk = pool.bytes_reserved();
    while (pool.bytes_in_use() + bytes <= chunk) ASSERT_NE(pool.allocate(bytes), nullptr);
    EXPECT_EQ(pool.bytes_reserved(), chunk) << bytes;
    EXPECT_GT(static_cast<double>(pool.bytes_in_use()), 0.97 * static_cast<double>(chunk)) << bytes;
  }
}

TEST(SlotPool, UsesTheLastOsPageOfTheBudget) {
  const size_t page = os_page_bytes();
  Budget budget(5 * page);
  SlotPool pool(budget, Use::kPages, kChunkHint);
  std::vector<uint8_t*> slots;
  while (uint8_t* slot = pool.allocate(static_cast<uint32_t>(page))) slots.push_back(slot);
  EXPECT_EQ(slots.size(), 5U);
  EXPECT_EQ(budget.available(), 0U);
  EXPECT_FALSE(pool.would_fit(64));
  pool.free(slots[2], static_cast<uint32_t>(page));
  EXPECT_TRUE(pool.would_fit(static_cast<uint32_t>(page)));
  EXPECT_EQ(pool.allocate(static_cast<uint32_t>(page)), slots[2]);
}

TEST(SlotPool, HoldsAFreeSlotWhereAChunkIsNotFull) {
  const auto page = static_cast<uint32_t>(os_page_bytes());
  Budget budget(uint64_t{16} * page);
  SlotPool pool(budget, Use::kPages, size_t{2} * page);
  EXPECT_FALSE(pool.holds_free(page));  // a first chunk would have to be paid
  uint8_t* slot = pool.allocate(page);
  EXPECT_TRUE(pool.holds_free(page));
  EXPECT_FALSE(pool.holds_free(2 * page));
  const uint64_t available = budget.available();
  uint8_t* other = pool.allocate(page);
  EXPECT_EQ(budget.available(), available);
  EXPECT_FALSE(pool.holds_free(page));
  pool.free(slot, page);
  EXPECT_TRUE(pool.holds_free(page));
  pool.free(other, page);
  EXPECT_FALSE(pool.holds_free(page));
}

TEST(SlotPool, GivesAnEmptyChunkBackAtOnce) {
  Budget budget(1 << 20);
  SlotPool pool(budget, Use::kStaging, kChunkHint);
  uint8_t* small = pool.allocate(4096);
  uint8_t* large = pool.allocate(8192);
  ASSERT_NE(small, nullptr);
  ASSERT_NE(large, nullptr);
  const uint64_t both = budget.used(Use::kStaging);
  pool.free(small, 4096);
  EXPECT_LT(budget.used(Use::kStaging), both);
  EXPECT_GT(budget.used(Use::kStaging), 0U);
  pool.free(large, 8192);
  EXPECT_EQ(budget.used(), 0U);
  EXPECT_EQ(pool.bytes_reserved(), 0U);
}

TEST(SlotPool, KeepsEmptyChunksUntilItIsToldToDropThem) {
  Budget budget(1 << 20);
  SlotPool pool(budget, Use::kPages, 640);
  uint8_t* const first = pool.allocate(640);
  uint8_t* const second = pool.allocate(640);
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  const uint64_t used = budget.used();
  pool.keep_empty_chunks();
  pool.free(first, 640);
  pool.free(second, 640);
  EXPECT_EQ(budget.used(), used);
  EXPECT_EQ(pool.bytes_in_use(), 0U);
  uint8_t* const again = pool.allocate(640);
  EXPECT_TRUE(again == first || again == second);
  EXPECT_EQ(budget.used(), used);
  pool.drop_empty_chunks();
  pool.free(again, 640);
  EXPECT_EQ(budget.used(), 0U);
}

TEST(SlotPool, ReleasesEverythingWhenItGoesAway) {
  Budget budget(1 << 20);
  {
    SlotPool pool(budget, Use::kPages, kChunkHint);
    for (int i = 0; i < 10; ++i) ASSERT_NE(pool.allocate(640), nullptr);
  }
  EXPECT_EQ(budget.used(), 0U);
}

// What the pool handed out, with a pattern that tells slots apart: overlap or loss changes a pattern.
struct ModelSlot {
  uint8_t* data;
  uint32_t bytes;
  uint8_t pattern;
};

bool holds_pattern(const ModelSlot& slot) {
  return std::all_of(slot.data, slot.data + slot.bytes, [&](uint8_t b) { return b == slot.pattern; });
}

// Random allocations and frees beside another user of the budget; the model is a plain list.
TEST(SlotPool, AgreesWithAModel) {
  constexpr std::array<uint32_t, 5> kSizes{64, 832, 4096, 8640, 70016};
  const size_t page = os_page_bytes();
  for (uint32_t seed = 0; seed < 8; ++seed) {
    std::mt19937 random(seed);
    Budget budget(1500000);
    SlotPool pool(budget, Use::kPages, 64 << 10);
    std::vector<ModelSlot> model;
    uint64_t in_use = 0;
    uint64_t others = 0;
    uint32_t refused = 0;
    for (int i = 0; i < 4000; ++i) {
      const uint32_t action = random() % 16;
      if (action == 0) {  // the other user comes or goes
        if (others > 0) {
          budget.release(Use::kTails, others);
          others = 0;
        } else if (const uint64_t bytes = random() % 300000; budget.try_reserve(Use::kTails, bytes)) {
          others = bytes;
        }
      } else if (action < 9 || model.empty()) {
        const uint32_t bytes = kSizes[random() % kSizes.size()];
        const bool fits = pool.would_fit(bytes);
        uint8_t* data = pool.allocate(bytes);
        EXPECT_EQ(data != nullptr, fits);
        if (data == nullptr) {
          EXPECT_LT(budget.available(), (bytes + page - 1) / page * page);
          ++refused;
          continue;
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0U);
        model.push_back({data, bytes, static_cast<uint8_t>(random())});
        std::memset(data, model.back().pattern, bytes);
        in_use += bytes;
      } else {
        std::swap(model[random() % model.size()], model.back());
        ASSERT_TRUE(holds_pattern(model.back()));
        in_use -= model.back().bytes;
        pool.free(model.back().data, model.back().bytes);
        model.pop_back();
      }
      ASSERT_EQ(pool.bytes_in_use(), in_use);
      ASSERT_GE(pool.bytes_reserved(), in_use);
      ASSERT_EQ(pool.bytes_reserved(), budget.used(Use::kPages));
    }
    EXPECT_GT(refused, 0U) << "the budget was never short: the test tests too little";
    for (const ModelSlot& slot : model) {
      EXPECT_TRUE(holds_pattern(slot));
      pool.free(slot.data, slot.bytes);
    }
    EXPECT_EQ(pool.bytes_in_use(), 0U);
    EXPECT_EQ(pool.bytes_reserved(), 0U);
    EXPECT_EQ(budget.used(), others);
  }
}

}  // namespace
}  // namespace quire
