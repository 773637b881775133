// Store files whose disk hangs, refuses O_DIRECT or is slow, and stores over them: a hung read is a miss, a
// hung write is never visible, and no late transfer reaches anybody's memory or a slot that has been given
// on.
#include "offload/timed_store_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>

#include "offload/thread_engine.h"
#include "tests/offload/made_blocks.h"
#include "tests/offload/support.h"
#include "tests/support/temporary_store.h"

namespace quire::testing {
namespace {

// A gate in front of the system's calls: shut, they wait, and the time of a deadline passes at once.
class Gate {
 public:
  Gate(StepClock& clock, Nanoseconds deadline) : clock_(clock), deadline_(deadline) {}
  void pass(bool write) {
    std::unique_lock lock(mutex_);
    ++calls_;
    const bool& shut = write ? writes_shut_ : reads_shut_;
    if (shut) clock_.advance(deadline_);
    changed_.wait(lock, [&] { return !shut; });
  }
  void shut(bool reads, bool writes) {
    const std::lock_guard lock(mutex_);
    reads_shut_ = reads;
    writes_shut_ = writes;
    changed_.notify_all();
  }
  void open() { shut(false, false); }
  uint64_t calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reads_shut_ = false;
  bool writes_shut_ = false;
  uint64_t calls_ = 0;
  StepClock& clock_;
  const Nanoseconds deadline_;
};

class TimedStoreFileTest : public ::testing::Test {
 protected:
  FileCalls gated_calls() {
    FileCalls calls = system_file_calls();
    calls.read = [this](int fd, void* data, size_t bytes, off_t offset) {
      gate_.pass(false);
      return ::pread(fd, data, bytes, offset);
    };
    calls.write = [this](int fd, const void* data, size_t bytes, off_t offset) {
      gate_.pass(true);
      return ::pwrite(fd, data, bytes, offset);
    };
    return calls;
  }
  std::unique_ptr<StoreFile> open(uint64_t largest = uint64_t{4} << 20) {
    const StoreFileOptions options{kDeadline, largest, [this](const IoEngineOptions& io, const Clock& clock) {
                                     return ThreadEngine::create(io, clock, gated_calls());
                                   }};
    auto file = open_store_file(path_.path(), options, clock_, budget_);
    EXPECT_TRUE(file.ok()) << file.status().message();
    return file.ok() ? std::move(*file) : nullptr;
  }
  // Lets late calls end; the file knows it when it is asked again.
  static void expect_usable(StoreFile& file) {
    std::vector<uint8_t> bytes(4096);
    Status status;
    for (int i = 0; i < 20000; ++i) {
      status = file.read(0, bytes);
      if (status.ok()) return;
      std::this_thread::sleep_for(1ms);
    }
    FAIL() << status.message();
  }

  static constexpr Nanoseconds kDeadline = 100ms;
  StepClock clock_;  // stands still but at the gate: a slow disk is not one that hangs
  TemporaryStore path_;
  Gate gate_{clock_, kDeadline};
  Budget budget_{16 << 20};
};

TEST_F(TimedStoreFileTest, TransfersOfAnyLengthComeBack) {
  auto file = open();
  constexpr uint64_t kMost = (uint64_t{3} << 20) + 8192;
  ASSERT_TRUE(file->resize(kMost + 4096).ok());
  AlignedBytes in(kMost);
  AlignedBytes out(kMost);
  uint64_t cases = 0;
  for (const uint64_t length :
       {uint64_t{4096}, TimedStoreFile::kPieceBytes - 4096, TimedStoreFile::kPieceBytes,
        TimedStoreFile::kPieceBytes + 4096, 2 * TimedStoreFile::kPieceBytes, kMost}) {
    fill_random(in.span(), length);
    ASSERT_TRUE(file->write(4096, in.part(0, length)).ok());
    ASSERT_TRUE(file->sync().ok());
    ASSERT_TRUE(file->read(4096, out.part(0, length)).ok());
    EXPECT_TRUE(std::ranges::equal(in.part(0, length), out.part(0, length))) << length;
    ++cases;
  }
  EXPECT_EQ(file->read(kMost, out.part(0, 8192)).code(), StatusCode::kIo) << "beyond the end";
  EXPECT_EQ(budget_.used(), TimedStoreFile::kPieces * TimedStoreFile::kPieceBytes);
  file.reset();
  EXPECT_EQ(budget_.used(), 0U);
  file = open(5000);
  EXPECT_EQ(budget_.used(), TimedStoreFile::kPieces * 8192);
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

TEST_F(TimedStoreFileTest, AHungReadFailsAndTouchesNobodysMemory) {
  auto file = open();
  ASSERT_TRUE(file->resize(1 << 20).ok());
  AlignedBytes bytes(8192);
  fill_random(bytes.span(), 1);
  ASSERT_TRUE(file->write(0, bytes.span()).ok());
  std::fill_n(bytes.data(), 8192, uint8_t{7});
  gate_.shut(true, false);
  EXPECT_EQ(file->read(0, bytes.span()).code(), StatusCode::kDeadline);
  const uint64_t calls = gate_.calls();
  // Until the disk has answered nothing else is asked of it, and nobody waits again: no time passes.
  EXPECT_EQ(file->write(0, bytes.span()).code(), StatusCode::kDeadline);
  EXPECT_EQ(file->sync().code(), StatusCode::kDeadline);
  EXPECT_EQ(gate_.calls(), calls);
  gate_.open();
  expect_usable(*file);
  EXPECT_TRUE(std::ranges::all_of(bytes.span(), [](uint8_t b) { return b == 7; }));
}

TEST_F(TimedStoreFileTest, ALateWriteComesBeforeEverythingElse) {
  auto file = open();
  ASSERT_TRUE(file->resize(1 << 20).ok());
  AlignedBytes late(4096);
  AlignedBytes after(4096);
  fill_random(late.span(), 1);
  fill_random(after.span(), 2);
  gate_.shut(false, true);
  EXPECT_EQ(file->write(0, late.span()).code(), StatusCode::kDeadline);
  std::fill_n(late.data(), 4096, uint8_t{0});
  gate_.open();
  expect_usable(*file);
  ASSERT_TRUE(file->write(0, after.span()).ok());
  ASSERT_TRUE(file->read(0, late.span()).ok());
  EXPECT_TRUE(std::ranges::equal(late.span(), after.span()));
}

// A file system that takes the flag and refuses the transfer.
class Refusing final : public NamedFile {
 public:
  explicit Refusing(std::unique_ptr<NamedFile> file) : file_(std::move(file)) {}
  int fd() const override { return file_->fd(); }
  Result<uint64_t> size() override { return file_->size(); }
  Status resize(uint64_t bytes) override { return file_->resize(bytes); }
  bool turn_off_direct() override { return std::exchange(refuses, false); }
  const std::string& name() const override { return file_->name(); }
  bool refuses = true;

 private:
  std::unique_ptr<NamedFile> file_;
};

TEST_F(TimedStoreFileTest, GoesThroughThePageCacheWhereDirectTransfersAreRefused) {
  auto named = open_named_file(path_.path());
  ASSERT_TRUE(named.ok());
  auto refusing = std::make_unique<Refusing>(std::move(*named));
  const Refusing* disk = refusing.get();
  FileCalls calls = system_file_calls();
  calls.write = [disk](int fd, const void* data, size_t bytes, off_t offset) -> ssize_t {
    if (!disk->refuses) return ::pwrite(fd, data, bytes, offset);
    errno = EINVAL;
    return -1;
  };
  const StoreFileOptions options{kDeadline, 8192, [&](const IoEngineOptions& io, const Clock& clock) {
                                   return ThreadEngine::create(io, clock, calls);
                                 }};
  auto file = TimedStoreFile::open(std::move(refusing), options, clock_, budget_);
  ASSERT_TRUE(file.ok());
  AlignedBytes bytes(3 * 8192);
  AlignedBytes back(3 * 8192);
  fill_random(bytes.span(), 3);
  ASSERT_TRUE((*file)->write(0, bytes.span()).ok());
  ASSERT_TRUE((*file)->read(0, back.span()).ok());
  EXPECT_TRUE(std::ranges::equal(bytes.span(), back.span()));
}

class HungStoreTest : public TimedStoreFileTest {
 protected:
  std::unique_ptr<PersistentStore> must_open() {
    auto store = PersistentStore::open(open(), made_options(20), budget_);
    EXPECT_TRUE(store.ok()) << store.status().message();
    return store.ok() ? std::move(*store) : nullptr;
  }
  size_t load(PersistentStore& store, const PrefixChain& chain) {
    uint64_t wrong = 0;
    const size_t blocks = load_chain(store, chain, buffer_, &wrong);
    EXPECT_EQ(wrong, 0U);
    return blocks;
  }
  // The blocks that load once the disk answers again.
  size_t load_at_last(PersistentStore& store, const PrefixChain& chain, size_t wanted) {
    size_t blocks = 0;
    for (int i = 0; i < 20000 && blocks != wanted; ++i) {
      blocks = load(store, chain);
      std::this_thread::sleep_for(1ms);
    }
    return blocks;
  }
  BlockBuffer buffer_;
};

TEST_F(HungStoreTest, AHungReadIsAMissAndCostsNoBlock) {
  const PrefixChain chain = made_chain(1, 1, 4);
  auto store = must_open();
  EXPECT_EQ(put_chain(*store, chain, buffer_), 4U);
  gate_.shut(true, false);
  EXPECT_EQ(load(*store, chain), 0U);
  EXPECT_EQ(load(*store, chain), 0U);
  EXPECT_EQ(store->stats().damaged_blocks, 0U);
  gate_.open();
  EXPECT_EQ(load_at_last(*store, chain, 4), 4U);
}

TEST_F(HungStoreTest, AHungWriteIsNeverVisible) {
  const PrefixChain first = made_chain(1, 1, 2);
  const PrefixChain hung = made_chain(2, 1, 2);
  const PrefixChain after = made_chain(3, 1, 2);
  auto store = must_open();
  EXPECT_EQ(put_chain(*store, first, buffer_), 2U);
  gate_.shut(false, true);
  EXPECT_EQ(put_chain(*store, hung, buffer_), 0U);
  EXPECT_EQ(store->match(hung.ids), 0U);
  EXPECT_EQ(put_chain(*store, after, buffer_), 0U) << "refused while the disk owes an answer";
  gate_.open();
  EXPECT_EQ(load_at_last(*store, first, 2), 2U);
  EXPECT_EQ(load(*store, hung), 0U);
  EXPECT_EQ(put_chain(*store, after, buffer_), 2U) << "in the slot that the hung write went to";
  EXPECT_EQ(load(*store, after), 2U);
  store.reset();
  store = must_open();
  EXPECT_EQ(store->stats().refused_blocks, 0U);
  EXPECT_EQ(load(*store, first), 2U);
  EXPECT_EQ(load(*store, hung), 0U);
  EXPECT_EQ(load(*store, after), 2U);
}

// Opens the gate when it is closed itself, which waits for what is still at the gate.
class OpensTheGate final : public StoreFile {
 public:
  OpensTheGate(std::unique_ptr<StoreFile> file, Gate& gate) : file_(std::move(file)), gate_(gate) {}
  ~OpensTheGate() override { gate_.open(); }
  Status read(uint64_t offset, std::span<uint8_t> bytes) override { return file_->read(offset, bytes); }
  Status write(uint64_t offset, std::span<const uint8_t> bytes) override {
    return file_->write(offset, bytes);
  }
  Status sync() override { return file_->sync(); }
  Result<uint64_t> size() override { return file_->size(); }
  Status resize(uint64_t bytes) override { return file_->resize(bytes); }
  const std::string& name() const override { return file_->name(); }

 private:
  std::unique_ptr<StoreFile> file_;
  Gate& gate_;
};

// What cannot be read in time may be whole: it is not written over.
TEST_F(HungStoreTest, OpeningFailsRatherThanForgetting) {
  const PrefixChain chain = made_chain(1, 1, 4);
  EXPECT_EQ(put_chain(*must_open(), chain, buffer_), 4U);
  auto file = std::make_unique<OpensTheGate>(open(), gate_);
  gate_.shut(true, false);
  const auto refused = PersistentStore::open(std::move(file), made_options(20), budget_);
  EXPECT_EQ(refused.status().code(), StatusCode::kDeadline);
  EXPECT_EQ(load(*must_open(), chain), 4U);
}

TEST_F(HungStoreTest, PublishingKeepsToTheWriteBudget) {
  PersistentStoreOptions options = made_options(70);
  const uint64_t block = 2 * uint64_t{options.shape.header_bytes} + options.shape.slot_bytes;
  constexpr uint64_t kBlocks = 10;  // that half an hour's share has room for
  SharedWriteBudget budget(WriteBudget(24 * 2 * kBlocks * block, 0, clock_.now()));
  options.write_budget = &budget;
  options.clock = &clock_;
  auto store = PersistentStore::open(open(), options, budget_);
  ASSERT_TRUE(store.ok());
  uint64_t stored = 0;
  for (uint64_t family = 0; family < 8; ++family)
    stored += put_chain(**store, made_chain(family, 1, 6), buffer_);
  // Half of what is left, again and again, as long as that is a block.
  EXPECT_LE((*store)->stats().written_bytes, (2 * kBlocks - 1) * block);
  EXPECT_GE(stored, kBlocks);
  EXPECT_LT(stored, 2 * kBlocks);
  EXPECT_GT((*store)->stats().unaffordable_blocks, 0U);
  const PrefixChain late = made_chain(50, 1, 3);
  EXPECT_EQ(put_chain(**store, late, buffer_), 0U);
  clock_.advance(std::chrono::hours(1));
  EXPECT_EQ(put_chain(**store, late, buffer_), 3U);
}

}  // namespace
}  // namespace quire::testing
