// The store of blocks on a disk that forgets, tears, flips and swaps: what comes back is the truth or
// nothing.
#include "offload/persistent_store.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <random>

#include "offload/named_file.h"
#include "quant/bytes.h"
#include "tests/offload/made_blocks.h"
#include "tests/offload/memory_store_file.h"
#include "tests/support/temporary_store.h"

namespace quire::testing {
namespace {

constexpr uint64_t kSlots = 70;

class PersistentStoreTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<PersistentStore>> open(uint64_t slots = kSlots, uint64_t layout = 5) {
    return PersistentStore::open(std::make_unique<MemoryStoreFile>(disk_), made_options(slots, layout),
                                 budget_);
  }
  std::unique_ptr<PersistentStore> must_open(uint64_t slots = kSlots) {
    auto store = open(slots);
    EXPECT_TRUE(store.ok()) << store.status().message();
    return store.ok() ? std::move(*store) : nullptr;
  }
  size_t load(PersistentStore& store, const PrefixChain& chain) {
    uint64_t wrong = 0;
    const size_t blocks = load_chain(store, chain, buffer_, &wrong);
    EXPECT_EQ(wrong, 0U) << "a block that is not the truth was served";
    return blocks;
  }
  size_t put(PersistentStore& store, const PrefixChain& chain) { return put_chain(store, chain, buffer_); }

  MemoryDisk disk_;
  Budget budget_{64 << 20};
  BlockBuffer buffer_;
};

TEST_F(PersistentStoreTest, ChainsComeBackAfterReopening) {
  const PrefixChain a = made_chain(1, 1, 6);
  const PrefixChain b = made_chain(1, 2, 6);
  {
    auto store = must_open();
    EXPECT_EQ(put(*store, a), 6U);
    EXPECT_EQ(put(*store, b), 6U);
    EXPECT_EQ(store->stats().blocks, 10U) << "two blocks are common";
    EXPECT_TRUE(store->sync().ok());
    EXPECT_GT(disk_.syncs, 0U);
  }
  EXPECT_LE(disk_.bytes.size(), made_options(kSlots).budget);
  auto store = must_open();
  EXPECT_EQ(store->stats().recovered_blocks, 10U);
  EXPECT_EQ(store->match(a.ids), 6U);
  EXPECT_EQ(load(*store, a), 6U);
  EXPECT_EQ(load(*store, b), 6U);
  EXPECT_EQ(load(*store, made_chain(2, 1, 6)), 0U);
}

TEST_F(PersistentStoreTest, TenantsDoNotSeeEachOther) {
  auto store = must_open();
  EXPECT_EQ(put(*store, made_chain(1, 1, 3, 2, 9)), 3U);
  EXPECT_EQ(store->match(made_chain(1, 1, 3, 2, 10).ids), 0U);
  EXPECT_EQ(load(*store, made_chain(1, 1, 3, 2, 10)), 0U);
}

// Hashes only find: a chain with the right ids and other tokens, tenant or order is not served.
TEST_F(PersistentStoreTest, ForgedIdsDoNotServe) {
  auto store = must_open();
  const PrefixChain truth = made_chain(1, 1, 3);
  EXPECT_EQ(put(*store, truth), 3U);
  PrefixChain tokens = truth;
  tokens.tokens[5] ^= 1;
  EXPECT_EQ(load(*store, tokens), 0U);
  PrefixChain later = truth;
  later.tokens[2 * kMadePageTokens] ^= 1;
  EXPECT_EQ(load(*store, later), 2U);
  PrefixChain tenant = truth;
  tenant.scope.tenant[1] = 1;
  EXPECT_EQ(load(*store, tenant), 0U);
  // Block 1 behind nothing, and behind another block.
  EXPECT_FALSE(store->find(truth, 1, {}).ok());
  const auto first = store->find(truth, 0, {});
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(store->find(truth, 2, *first).ok());
  EXPECT_EQ(load(*store, truth), 3U) << "nothing of this is damage";
}

TEST_F(PersistentStoreTest, EvictsWhatWasUsedLongestAgoAndNeverItsOwnChain) {
  constexpr uint64_t kFew = 8;
  auto store = must_open(kFew);
  const PrefixChain old_chain = made_chain(1, 1, 3);
  const PrefixChain kept = made_chain(2, 1, 3);
  EXPECT_EQ(put(*store, old_chain), 3U);
  EXPECT_EQ(put(*store, kept), 3U);
  EXPECT_EQ(load(*store, old_chain), 3U);  // a use: now `kept` is older
  EXPECT_EQ(put(*store, made_chain(3, 1, 4)), 4U);
  EXPECT_EQ(store->match(kept.ids), 1U) << "from its end";
  EXPECT_EQ(store->match(old_chain.ids), 3U);
  const PrefixChain long_chain = made_chain(4, 1, 12);
  EXPECT_EQ(put(*store, long_chain), kFew) << "the beginning stays";
  EXPECT_EQ(load(*store, long_chain), kFew);
  EXPECT_EQ(store->stats().blocks, kFew);
}

TEST_F(PersistentStoreTest, ACapThatShrinksCutsTheFile) {
  const PrefixChain chain = made_chain(1, 1, 6);
  EXPECT_EQ(put(*must_open(), chain), 6U);
  auto store = must_open(4);
  EXPECT_LE(disk_.bytes.size(), made_options(4).budget);
  EXPECT_EQ(load(*store, chain), 4U);
  store.reset();
  EXPECT_EQ(load(*must_open(kSlots), chain), 4U);
}

// Any bit of any kind of byte: superblocks, headers, pages.
TEST_F(PersistentStoreTest, FlippedBitsCostBlocksAndNeverServeWrongOnes) {
  const PrefixChain chain = made_chain(1, 1, 6);
  {
    auto store = must_open();
    EXPECT_EQ(put(*store, chain), 6U);
  }
  const std::vector<uint8_t> clean = disk_.bytes;
  const StoreShape shape = made_options(kSlots).shape;
  std::mt19937_64 random(7);
  uint64_t lost = 0;
  uint64_t kept = 0;
  constexpr int kFlips = 600;
  for (int i = 0; i < kFlips; ++i) {
    disk_.bytes = clean;
    const uint64_t slot = random() % 6;
    const std::array<uint64_t, 3> start{0, shape.header_offset(slot), shape.data_offset(slot)};
    const std::array<uint64_t, 3> length{uint64_t{kSuperblockCopies} * kSuperblockBytes, 512, 5184};
    const size_t kind = random() % 3;
    disk_.bytes[start[kind] + random() % length[kind]] ^= static_cast<uint8_t>(1U << random() % 8);
    auto store = must_open();
    const size_t blocks = load(*store, chain);
    EXPECT_EQ(blocks, kind == 0 ? 6U : slot) << "kind " << kind;
    (blocks == 6 ? kept : lost) += 1;
    // The damage is repaired by publishing again.
    EXPECT_EQ(put(*store, chain), 6U);
    EXPECT_EQ(load(*store, chain), 6U);
    store.reset();
    EXPECT_EQ(load(*must_open(), chain), 6U);
  }
  EXPECT_GT(lost, 0U);
  EXPECT_GT(kept, 0U);
  std::printf("[counts] cases=%d faults=%d\n", kFlips, kFlips);
}

TEST_F(PersistentStoreTest, TornSuperblocksLeaveACopyAndNoCopyIsRefused) {
  const PrefixChain chain = made_chain(1, 1, 3);
  EXPECT_EQ(put(*must_open(), chain), 3U);
  const std::vector<uint8_t> clean = disk_.bytes;
  // Opening is cut off after every one of its writes, with the next one torn.
  for (int64_t writes = 0; writes < 4; ++writes) {
    disk_.bytes = clean;
    disk_.writes_left = writes;
    disk_.torn = true;
    EXPECT_FALSE(open().ok());
    disk_.writes_left = -1;
    EXPECT_EQ(load(*must_open(), chain), 3U) << "after " << writes << " writes";
  }
  disk_.bytes = clean;
  for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) disk_.bytes[copy * kSuperblockBytes + 40] ^= 1;
  const std::vector<uint8_t> damaged = disk_.bytes;
  const auto refused = open();
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalid);
  EXPECT_EQ(disk_.bytes, damaged) << "what is not a store is left alone";
  disk_.bytes.assign(100000, 'x');
  EXPECT_EQ(open().status().code(), StatusCode::kInvalid);
}

TEST_F(PersistentStoreTest, TruncatedFilesKeepTheirBeginning) {
  const PrefixChain chain = made_chain(1, 1, 6);
  EXPECT_EQ(put(*must_open(), chain), 6U);
  const std::vector<uint8_t> clean = disk_.bytes;
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{5000}, uint64_t{16384}, uint64_t{100000},
                               made_options(1).shape.data_offset(3) + 100, uint64_t{clean.size() - 1}}) {
    disk_.bytes.assign(clean.begin(), clean.begin() + static_cast<ptrdiff_t>(bytes));
    auto store = open();
    if (bytes < kSuperblockBytes) {
      EXPECT_FALSE(store.ok());
      continue;
    }
    ASSERT_TRUE(store.ok()) << bytes;
    EXPECT_LE(load(**store, chain), bytes < clean.size() / 2 ? 3U : 6U);
    EXPECT_EQ(put(**store, chain), 6U);
    EXPECT_EQ(load(**store, chain), 6U);
  }
}

TEST_F(PersistentStoreTest, SwappedFilesAreRefusedAndHeadersOfOthersToo) {
  const PrefixChain chain = made_chain(1, 1, 3);
  EXPECT_EQ(put(*must_open(), chain), 3U);
  EXPECT_EQ(open(kSlots, 6).status().code(), StatusCode::kInvalid) << "another layout";
  // The blocks of one store under the superblocks of another of the same shape.
  MemoryDisk other;
  PersistentStoreOptions options = made_options(kSlots);
  options.new_file = {1234, 5};
  ASSERT_TRUE(PersistentStore::open(std::make_unique<MemoryStoreFile>(other), options, budget_).ok());
  std::copy_n(other.bytes.begin(), kSuperblockCopies * kSuperblockBytes, disk_.bytes.begin());
  auto store = must_open();
  EXPECT_EQ(store->stats().refused_blocks, 3U);
  EXPECT_EQ(load(*store, chain), 0U);
}

TEST_F(PersistentStoreTest, HeadersOfTheWrongSlotOrTheFutureAreRefused) {
  const PrefixChain chain = made_chain(1, 1, 3);
  EXPECT_EQ(put(*must_open(), chain), 3U);
  const StoreShape shape = made_options(kSlots).shape;
  const std::vector<uint8_t> old_supers(disk_.bytes.begin(), disk_.bytes.begin() + 16384);
  const std::vector<uint8_t> clean = disk_.bytes;
  // A write that went astray: block 0 once more in slot 9, with its header.
  std::copy_n(disk_.bytes.begin() + static_cast<ptrdiff_t>(shape.header_offset(0)), shape.header_bytes,
              disk_.bytes.begin() + static_cast<ptrdiff_t>(shape.header_offset(9)));
  {
    auto store = must_open();
    EXPECT_EQ(store->stats().refused_blocks, 1U);
    EXPECT_EQ(load(*store, chain), 3U);
    // Blocks of this epoch, under the superblocks of an earlier one.
    EXPECT_EQ(put(*store, made_chain(2, 1, 2)), 2U);
  }
  ASSERT_TRUE(must_open() != nullptr);
  {
    auto store = must_open();
    EXPECT_EQ(put(*store, made_chain(3, 1, 2)), 2U);
  }
  std::copy(old_supers.begin(), old_supers.end(), disk_.bytes.begin());
  auto store = must_open();
  EXPECT_EQ(load(*store, chain), 3U);
  EXPECT_EQ(load(*store, made_chain(3, 1, 2)), 0U) << "its epoch has not come yet";
}

// The disk fails at every write of the superblocks, whole or torn: of a new file, then of one that holds
// blocks.
TEST_F(PersistentStoreTest, AFailedOpeningKeepsNobodyFromTheNext) {
  const PrefixChain chain = made_chain(1, 1, 3);
  uint64_t faults = 0;
  for (const bool is_new : {true, false}) {
    for (const bool torn : {false, true}) {
      disk_ = {};
      EXPECT_TRUE(is_new || put(*must_open(), chain) == 3U);
      for (int64_t writes = 0; writes < 4; ++writes) {
        disk_.writes_left = writes;
        disk_.torn = torn;
        EXPECT_EQ(open().status().code(), StatusCode::kIo) << "after " << writes << " writes";
        ++faults;
        disk_.writes_left = -1;
        const MemoryDisk left = disk_;
        EXPECT_EQ(load(*must_open(), chain), is_new ? 0U : 3U) << "after " << writes << " writes";
        disk_ = left;  // the next failure comes on top of this one
      }
    }
  }
  std::printf("[counts] cases=16 faults=%llu\n", static_cast<unsigned long long>(faults));
}

// What the machine keeps of an opening whose last sync failed may be nothing: the next one makes sure of it
// first.
TEST_F(PersistentStoreTest, AnOpeningSyncsBeforeItWrites) {
  EXPECT_EQ(put(*must_open(), made_chain(1, 1, 3)), 3U);
  const uint64_t syncs = disk_.syncs;
  disk_.writes_left = 0;
  EXPECT_EQ(open().status().code(), StatusCode::kIo);
  EXPECT_EQ(disk_.syncs, syncs + 1);
}

// Every write of a put fails once, whole or torn: the block is not there, then or after reopening.
TEST_F(PersistentStoreTest, AFailedStoreIsNeverVisible) {
  const PrefixChain chain = made_chain(1, 1, 2);
  uint64_t faults = 0;
  for (const bool torn : {false, true}) {
    for (int64_t writes = 0; writes < 3; ++writes) {
      disk_ = {};
      auto store = must_open();
      PrefixChain first = made_chain(1, 1, 1);
      EXPECT_EQ(put(*store, first), 1U);
      disk_.writes_left = writes;
      disk_.torn = torn;
      EXPECT_EQ(put(*store, chain), 1U);
      EXPECT_EQ(store->match(chain.ids), 1U);
      ++faults;
      disk_.writes_left = -1;
      store.reset();
      store = must_open();
      // Half a header may be all of it; its block is right then, and here it was put whole.
      const bool arrived = torn && writes == 2;
      EXPECT_EQ(load(*store, chain), arrived ? 2U : 1U) << "after " << writes << " writes";
      EXPECT_EQ(put(*store, chain), 2U);
      EXPECT_EQ(load(*store, chain), 2U);
    }
  }
  std::printf("[counts] cases=6 faults=%llu\n", static_cast<unsigned long long>(faults));
}

TEST_F(PersistentStoreTest, AFullDiskAndADeadOneCostBlocksOnly) {
  auto store = must_open();
  const PrefixChain chain = made_chain(1, 1, 6);
  disk_.full_at = made_options(1).shape.data_offset(3);
  EXPECT_EQ(put(*store, chain), 3U);
  EXPECT_EQ(load(*store, chain), 3U);
  disk_.reads_left = 0;
  EXPECT_EQ(load(*store, chain), 0U);
  disk_.reads_left = -1;
  disk_.full_at = UINT64_MAX;
  EXPECT_EQ(put(*store, chain), 6U);
  EXPECT_EQ(load(*store, chain), 6U);
}

TEST_F(PersistentStoreTest, OneCacheAtATime) {
  const TemporaryStore file;
  auto first = open_named_file(file.path());
  ASSERT_TRUE(first.ok()) << first.status().message();
  const auto second = open_named_file(file.path());
  EXPECT_EQ(second.status().code(), StatusCode::kInvalid);
  EXPECT_NE(second.status().message().find("is in use by another process or cache"), std::string::npos);
  first->reset();
  EXPECT_TRUE(open_named_file(file.path()).ok());
  EXPECT_FALSE(open_named_file("/nowhere/blocks").ok());
  EXPECT_EQ(open_named_file("/dev/null").status().code(), StatusCode::kInvalid);
}

TEST_F(PersistentStoreTest, BudgetsAreHard) {
  EXPECT_EQ(open(0).status().code(), StatusCode::kInvalid);
  Budget none(100);
  const auto store =
      PersistentStore::open(std::make_unique<MemoryStoreFile>(disk_), made_options(kSlots), none);
  EXPECT_EQ(store.status().code(), StatusCode::kOverBudget);
  EXPECT_EQ(none.used(), 0U);
  const uint64_t before = budget_.used();
  must_open().reset();
  EXPECT_EQ(budget_.used(), before);
}

// The bytes as STORE.md says, read without the library's code.
TEST_F(PersistentStoreTest, HeadersAreAsTheDocumentSays) {
  const PrefixChain chain = made_chain(1, 1, 2);
  EXPECT_EQ(put(*must_open(), chain), 2U);
  const auto checked = [&](uint64_t offset, size_t field) {
    std::vector<uint8_t> block(disk_.bytes.begin() + static_cast<ptrdiff_t>(offset),
                               disk_.bytes.begin() + static_cast<ptrdiff_t>(offset + 4096));
    const auto sum = load_le<uint64_t>(block.data() + field);
    store_le<uint64_t>(block.data() + field, 0);
    EXPECT_EQ(sum, XXH3_64bits(block.data(), block.size()));
    return block;
  };
  const std::vector<uint8_t> super = checked(4096, 64);
  EXPECT_EQ(std::string(super.begin(), super.begin() + 8), "QUIRESTO");
  EXPECT_EQ(load_le<uint32_t>(super.data() + 12), 1U);
  EXPECT_EQ(load_le<uint32_t>(super.data() + 32), 1U);
  EXPECT_EQ(load_le<uint64_t>(super.data() + 48), 8192U);
  const std::vector<uint8_t> header = checked(16384 + 4096, 144);
  EXPECT_EQ(std::string(header.begin(), header.begin() + 8), "QUIREBLK");
  EXPECT_EQ(load_le<uint64_t>(header.data() + 32), 1U);
  EXPECT_EQ(load_le<uint64_t>(header.data() + 40), (uint64_t{1} << 32) + 2);
  EXPECT_EQ(load_le<uint64_t>(header.data() + 48), (uint64_t{1} << 32) + 1);
  EXPECT_EQ(load_le<uint64_t>(header.data() + 56), 1U);
  EXPECT_EQ(load_le<uint64_t>(header.data() + 136), made_bytes(1));
  EXPECT_EQ(header[192], static_cast<uint8_t>(chain.ids[1].high));
  EXPECT_EQ(load_le<int32_t>(header.data() + 256 + 4), chain.tokens[kMadePageTokens + 1]);
  const uint64_t data = 16384 + 64 * 4096 + 8192;
  EXPECT_EQ(load_le<uint64_t>(header.data() + 256 + 32 * 4), XXH3_64bits(&disk_.bytes[data], 4032));
}

}  // namespace
}  // namespace quire::testing
