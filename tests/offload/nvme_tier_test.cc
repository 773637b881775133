// What is particular to the disk tier: its file, its headers, and every fault of a disk.
#include "offload/nvme_tier.h"

#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "tests/offload/faulty_engine.h"
#include "tests/offload/page_run.h"

namespace quire::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class NvmeTierTest : public ::testing::Test {
 protected:
  NvmeTierOptions options(const std::string& directory, uint64_t budget = 16 * kMiB) {
    NvmeTierOptions options;
    options.directory = directory;
    options.budget = budget;
    // Keeps the descriptor, so that the test can look at the file behind the tier's back.
    options.factory = [this](const IoEngineOptions& io, const Clock& clock) {
      fd_ = io.files[0];
      return faulty_engine_factory(plan_)(io, clock);
    };
    return options;
  }
  void SetUp() override { open(); }
  void open() {
    auto tier = NvmeTier::open(options(directory_.path()), clock_);
    ASSERT_TRUE(tier.ok()) << tier.status().message();
    tier_ = std::move(*tier);
  }
  void poll_until_idle() {
    std::array<Completion, 4> none;
    while (tier_->pending() > 0) EXPECT_EQ(*tier_->poll(none, 10ms), 0U);
  }
  // As a reader must: by the checksum that it kept.
  static bool proven(const std::vector<uint8_t>& page, const PutPage& kept) {
    return XXH3_64bits(page.data(), page.size()) == kept.checksum;
  }

  StepClock clock_;
  ScratchDirectory directory_;
  int fd_ = -1;
  std::shared_ptr<FaultPlan> plan_ = std::make_shared<FaultPlan>();
  std::unique_ptr<NvmeTier> tier_;
};

TEST_F(NvmeTierTest, LeavesNoFileAndNoDescriptor) {
  tier_.reset();
  const size_t before = open_descriptors();
  open();
  PageRun run(0, {640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  EXPECT_TRUE(directory_.empty());
  tier_.reset();
  EXPECT_TRUE(directory_.empty());
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(NvmeTierTest, IsClosedWithWorkUnderWay) {
  PageRun run(0, std::vector<uint32_t>(100, 8640), 1);
  AlignedBytes buffer(kMiB);
  ASSERT_TRUE(run.start_put(*tier_, 1, {1, 0}).ok());
  tier_.reset();
}

TEST_F(NvmeTierTest, BadOptionsAreRefused) {
  EXPECT_EQ(NvmeTier::open(options(directory_.path(), kMinExtentBytes - 1), clock_).status().code(),
            StatusCode::kInvalid);
  EXPECT_EQ(NvmeTier::open(options(directory_.path() + "/missing"), clock_).status().code(), StatusCode::kIo);
  NvmeTierOptions bad = options(directory_.path());
  bad.deadline = 0ns;
  EXPECT_EQ(NvmeTier::open(bad, clock_).status().code(), StatusCode::kInvalid);
  bad = options(directory_.path());
  bad.depth = 0;
  EXPECT_EQ(NvmeTier::open(bad, clock_).status().code(), StatusCode::kInvalid);
}

TEST_F(NvmeTierTest, AClosedExtentHasItsHeaderOnDisk) {
  PageRun first(7, {60032, 60032}, 1);
  PageRun second(9, {60032}, 2);
  put_and_wait(*tier_, first, {11, 5});
  put_and_wait(*tier_, second, {11, 5});  // does not fit any more
  poll_until_idle();
  EXPECT_EQ(tier_->stats().headers, 1U);
  AlignedBytes block(kExtentHeaderBytes);
  const uint64_t offset = first.places[0].offset - kExtentHeaderBytes;
  ASSERT_EQ(::pread(fd_, block.data(), kExtentHeaderBytes, static_cast<off_t>(offset)), kExtentHeaderBytes);
  const auto header = parse_extent_header(block.span().first<kExtentHeaderBytes>(), offset);
  ASSERT_TRUE(header.ok()) << header.status().message();
  EXPECT_EQ(header->stream, (StreamId{11, 5}));
  EXPECT_EQ(header->generation, first.places[0].generation);
  EXPECT_EQ(header->bytes, kMinExtentBytes);
  const std::vector<ExtentEntry> entries{{7, 4096, 60032, first.pages[0].checksum},
                                         {8, 4096 + 60032, 60032, first.pages[1].checksum}};
  EXPECT_EQ(header->entries, entries);
  EXPECT_EQ(get_and_wait(*tier_, first.places), first.contents);
}

TEST_F(NvmeTierTest, AHeaderThatCannotBeWrittenCostsNoPage) {
  plan_->add({Fault::kEio, IoKind::kWrite, 2});
  PageRun first(0, {60032, 60032}, 1);
  PageRun second(2, {60032}, 2);
  put_and_wait(*tier_, first, {1, 0});
  put_and_wait(*tier_, second, {1, 0});
  poll_until_idle();
  EXPECT_EQ(tier_->stats().failed_headers, 1U);
  EXPECT_EQ(get_and_wait(*tier_, first.places), first.contents);
  tier_->drop(first.places);
  tier_->drop(second.places);
  EXPECT_EQ(tier_->stats().used_bytes, 0U);
}

TEST_F(NvmeTierTest, AFailedPutGivesItsPlacesBack) {
  const std::map<Fault, int> errors{{Fault::kEio, EIO}, {Fault::kNoSpace, ENOSPC}, {Fault::kShort, EIO}};
  for (const auto& [fault, os_error] : errors) {
    plan_->add({fault, IoKind::kWrite});
    PageRun run(0, {8640, 8640}, 1);
    ASSERT_TRUE(run.start_put(*tier_, 3, {1, 0}).ok());
    EXPECT_EQ(collect(*tier_, 1)[0], (Completion{3, CompletionEvent::kDone, StatusCode::kIo, os_error}));
    EXPECT_EQ(tier_->stats().live_bytes, 0U) << fault_name(fault);
    EXPECT_EQ(tier_->stats().used_bytes, 0U) << fault_name(fault);
    EXPECT_EQ(plan_->hits(fault, IoKind::kWrite), 1U);
  }
  EXPECT_EQ(tier_->stats().failed_puts, 3U);
}

TEST_F(NvmeTierTest, AFailedGetLosesNothing) {
  PageRun run(0, {8640, 8640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  for (const Fault fault : {Fault::kEio, Fault::kShort}) {
    plan_->add({fault, IoKind::kRead});
    EXPECT_TRUE(get_and_wait(*tier_, run.places).empty()) << fault_name(fault);
  }
  EXPECT_EQ(tier_->stats().failed_gets, 2U);
  EXPECT_EQ(get_and_wait(*tier_, run.places), run.contents);
}

// The tier cannot see these; the reader's checksums must.
TEST_F(NvmeTierTest, WhatTheDiskGetsWrongSilentlyDoesNotVerify) {
  const std::vector<FaultRule> silent{{Fault::kTorn, IoKind::kWrite},
                                      {Fault::kMisdirected, IoKind::kWrite},
                                      {Fault::kMisdirected, IoKind::kRead},
                                      {Fault::kBitFlip, IoKind::kRead}};
  for (const FaultRule& rule : silent) {
    plan_->add(rule);
    PageRun run(0, {32768, 32768}, 1);  // no padding: every bit belongs to a page
    put_and_wait(*tier_, run, {1, 0});
    const auto pages = get_and_wait(*tier_, run.places);
    ASSERT_EQ(pages.size(), 2U);
    EXPECT_FALSE(proven(pages[0], run.pages[0]) && proven(pages[1], run.pages[1])) << fault_name(rule.fault);
    EXPECT_EQ(plan_->hits(rule.fault, rule.kind), 1U);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(proven(pages[i], run.pages[i]), pages[i] == run.contents[i]);
  }
}

TEST_F(NvmeTierTest, APutPastItsDeadlineKeepsItsSpaceUntilItIsReleased) {
  plan_->set_late(5s);
  plan_->add({Fault::kDelay, IoKind::kWrite});
  PageRun late(0, {8640}, 1);
  ASSERT_TRUE(late.start_put(*tier_, 1, {1, 0}).ok());
  clock_.advance(31s);
  EXPECT_EQ(collect(*tier_, 1)[0], (Completion{1, CompletionEvent::kExpired, StatusCode::kDeadline, 0}));
  EXPECT_EQ(tier_->stats().live_bytes, 0U);
  EXPECT_EQ(tier_->stats().used_bytes, kMinExtentBytes);
  // Others get other space, so the late write cannot hit them.
  PageRun other(0, {8640}, 2);
  put_and_wait(*tier_, other, {2, 0});
  EXPECT_NE(other.places[0].extent, late.places[0].extent);
  clock_.advance(5s);
  EXPECT_EQ(collect(*tier_, 1)[0], (Completion{1, CompletionEvent::kReleased, StatusCode::kDeadline, 0}));
  EXPECT_EQ(tier_->stats().used_bytes, kMinExtentBytes);
  EXPECT_EQ(get_and_wait(*tier_, other.places), other.contents);
  EXPECT_EQ(tier_->stats().failed_puts, 1U);
}

TEST_F(NvmeTierTest, AGetPastItsDeadlineIsToldWhenItsBufferIsFree) {
  plan_->set_late(5s);
  PageRun run(0, {8640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  plan_->add({Fault::kDelay, IoKind::kRead});
  AlignedBytes buffer(12288);
  ASSERT_TRUE(tier_->get_run(4, run.places, buffer.span()).ok());
  clock_.advance(31s);
  EXPECT_EQ(collect(*tier_, 1)[0], (Completion{4, CompletionEvent::kExpired, StatusCode::kDeadline, 0}));
  EXPECT_EQ(tier_->pending(), 1U);
  clock_.advance(5s);
  EXPECT_EQ(collect(*tier_, 1)[0], (Completion{4, CompletionEvent::kReleased, StatusCode::kDeadline, 0}));
  EXPECT_EQ(tier_->pending(), 0U);
  EXPECT_EQ(get_and_wait(*tier_, run.places), run.contents);
}

TEST_F(NvmeTierTest, ACompletionThatComesTwiceCountsOnce) {
  plan_->add({Fault::kDuplicate, IoKind::kWrite});
  plan_->add({Fault::kDuplicate, IoKind::kRead});
  PageRun run(0, {8640}, 1);
  put_and_wait(*tier_, run, {1, 0});
  EXPECT_EQ(get_and_wait(*tier_, run.places), run.contents);
  std::array<Completion, 4> none;
  EXPECT_EQ(*tier_->poll(none, 10ms), 0U);
  EXPECT_EQ(tier_->stats().stray_completions, 2U);
  EXPECT_EQ(tier_->stats().live_bytes, 8640U);
}

TEST_F(NvmeTierTest, AFullFileSystemFailsThePutAndKeepsTheRest) {
  ScratchDirectory small;
  if (::mount("none", small.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "a file system of 1 MiB cannot be mounted: " << std::strerror(errno);
  }
  auto opened = NvmeTier::open(options(small.path()), clock_);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  {
    const auto tier = std::move(*opened);
    std::vector<std::unique_ptr<PageRun>> runs;
    Completion end = ok(1);
    while (end.code == StatusCode::kOk && runs.size() < 100) {
      runs.push_back(std::make_unique<PageRun>(runs.size(), std::vector<uint32_t>(8, 8640), runs.size()));
      ASSERT_TRUE(runs.back()->start_put(*tier, 1, {1, 0}).ok());
      end = collect(*tier, 1)[0];
    }
    EXPECT_EQ(end, (Completion{1, CompletionEvent::kDone, StatusCode::kIo, ENOSPC}));
    runs.pop_back();
    EXPECT_GE(runs.size(), 10U);
    for (const auto& run : runs) EXPECT_EQ(get_and_wait(*tier, run->places), run->contents);
  }
  EXPECT_EQ(::umount(small.path().c_str()), 0);
}

// Random runs under every fault at once: each request ends as completion.h says, what verifies is what was
// written, and no space is lost.
class NvmeTierSoak : public NvmeTierTest, public ::testing::WithParamInterface<uint64_t> {
 protected:
  struct Busy {
    std::unique_ptr<PageRun> run;  // being put, or else
    AlignedBytes buffer{64};       // being read into
    const PageRun* source = nullptr;
    bool expired = false;
  };

  void start_put(uint64_t tag) {
    auto run = std::make_unique<PageRun>(
        random_() % 1000, std::vector<uint32_t>(1 + random_() % 8, 64 * (1 + random_() % 200)), random_());
    if (run->start_put(*tier_, tag, {random_() % 4, 0}).ok()) busy_[tag].run = std::move(run);
  }
  void start_get(uint64_t tag) {
    if (kept_.empty()) return;
    const PageRun& source = *kept_[random_() % kept_.size()];
    Busy busy;
    busy.buffer = AlignedBytes(source.buffer.size());
    busy.source = &source;
    if (tier_->get_run(tag, source.places, busy.buffer.span()).ok()) busy_.emplace(tag, std::move(busy));
  }
  void drop_one() {
    const size_t index = random_() % std::max<size_t>(kept_.size(), 1);
    const auto reads_it = [&](const auto& entry) { return entry.second.source == kept_[index].get(); };
    if (kept_.empty() || std::ranges::any_of(busy_, reads_it)) return;
    tier_->drop(kept_[index]->places);
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(index));
  }
  void complete(const Completion& completion) {
    const auto found = busy_.find(completion.tag);
    ASSERT_NE(found, busy_.end()) << "a request has ended twice";
    Busy& busy = found->second;
    ASSERT_EQ(busy.expired, completion.event == CompletionEvent::kReleased);
    if (completion.code == StatusCode::kOk && busy.run) kept_.push_back(std::move(busy.run));
    if (completion.code == StatusCode::kOk && busy.source != nullptr) check(busy);
    busy.expired = true;
    if (completion.event != CompletionEvent::kExpired) busy_.erase(found);
  }
  void check(Busy& busy) {
    const PageRun& source = *busy.source;
    size_t at = 0;
    for (size_t i = 0; i < source.pages.size(); ++i) {
      const auto bytes = busy.buffer.part(at, source.pages[i].length);
      const std::vector<uint8_t> page(bytes.begin(), bytes.end());
      const bool verified = proven(page, source.pages[i]);
      EXPECT_EQ(verified, page == source.contents[i]);
      ++(verified ? proven_ : rejected_);
      at += source.pages[i].length;
    }
  }
  void poll(Nanoseconds timeout) {
    std::array<Completion, 16> out;
    const auto count = tier_->poll(out, timeout);
    ASSERT_TRUE(count.ok());
    for (size_t i = 0; i < *count; ++i) complete(out[i]);
  }

  std::mt19937_64 random_{GetParam()};
  std::map<uint64_t, Busy> busy_;
  std::vector<std::unique_ptr<PageRun>> kept_;
  uint64_t proven_ = 0;
  uint64_t rejected_ = 0;
};

TEST_P(NvmeTierSoak, NothingWrongVerifiesAndNothingIsLost) {
  plan_->set_late(3s);
  plan_->hit_by_chance(200, {Fault::kEio, Fault::kNoSpace, Fault::kShort, Fault::kTorn, Fault::kBitFlip,
                             Fault::kMisdirected, Fault::kDelay, Fault::kDuplicate});
  // A slow disk proves fewer pages per round, so it gets more rounds.
  for (uint64_t tag = 0; tag < 1500 || proven_ < 200 || rejected_ == 0; ++tag) {
    ASSERT_LT(tag, 30000U);
    const uint64_t dice = random_() % 10;
    if (dice < 5) start_put(tag);
    if (dice >= 5 && dice < 8) start_get(tag);
    if (dice >= 8) drop_one();
    if (random_() % 20 == 0) clock_.advance(2s);
    ASSERT_NO_FATAL_FAILURE(poll(200us));
  }
  while (!busy_.empty()) {
    clock_.advance(1s);
    ASSERT_NO_FATAL_FAILURE(poll(1ms));
  }
  uint64_t live = 0;
  for (const auto& run : kept_) {
    for (const Place& place : run->places) live += place.length;
  }
  EXPECT_EQ(tier_->stats().live_bytes, live);
  for (const auto& run : kept_) tier_->drop(run->places);
  while (tier_->pending() > 0) {
    clock_.advance(1s);
    ASSERT_NO_FATAL_FAILURE(poll(1ms));
  }
  EXPECT_EQ(tier_->stats().used_bytes, 0U);
  EXPECT_GT(plan_->hits(), 100U);
  RecordProperty("faults", static_cast<int>(plan_->hits()));
}

INSTANTIATE_TEST_SUITE_P(Seeds, NvmeTierSoak, ::testing::Range<uint64_t>(1, 9));

}  // namespace
}  // namespace quire::testing
