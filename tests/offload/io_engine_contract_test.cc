// What every io engine promises, over all of them, on a file with and without O_DIRECT.
#include <fcntl.h>

#include <cerrno>
#include <map>
#include <thread>

#include "offload/file_descriptor.h"
#include "offload/thread_engine.h"
#include "offload/uring_engine.h"
#include "tests/offload/faulty_engine.h"
#include "tests/offload/support.h"

namespace quire::testing {
namespace {

constexpr size_t kBlock = 4096;

struct Implementation {
  std::string name;
  IoEngineFactory factory;
};

void PrintTo(const Implementation& implementation, std::ostream* out) { *out << implementation.name; }

std::vector<Implementation> implementations() {
  const IoEngineFactory threads = [](const IoEngineOptions& o, const Clock& c) {
    return ThreadEngine::create(o, c);
  };
  const auto no_faults = std::make_shared<FaultPlan>();
  return {{"uring", UringEngine::create},
          {"threads", threads},
          {"faulty_over_uring", faulty_engine_factory(no_faults, UringEngine::create)},
          {"faulty_over_threads", faulty_engine_factory(no_faults, threads)}};
}

class IoEngineContract : public ::testing::TestWithParam<std::tuple<Implementation, bool>> {
 protected:
  void SetUp() override {
    int flags = O_RDWR | O_CREAT | O_CLOEXEC;
    if (std::get<1>(GetParam())) flags |= O_DIRECT;
    const std::string path = directory_.path() + "/file";
    file_ = FileDescriptor(::open(path.c_str(), flags, 0600));
    if (!file_.valid() && errno == EINVAL) GTEST_SKIP() << "no O_DIRECT in " << directory_.path();
    ASSERT_TRUE(file_.valid());
    read_only_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    open_engine(steady_clock());
  }

  void open_engine(const Clock& clock, uint32_t depth = 8) {
    engine_.reset();
    IoEngineOptions options;
    options.depth = depth;
    options.files = {file_.get(), read_only_.get()};
    options.buffers = {registered_.span()};
    auto engine = std::get<0>(GetParam()).factory(options, clock);
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    engine_ = std::move(*engine);
  }

  IoOp op(IoKind kind, uint64_t block, std::span<uint8_t> buffer, uint64_t tag) {
    return {kind, 0, block * kBlock, buffer, tag, kNoDeadline};
  }
  void run(const IoOp& one) {
    ASSERT_TRUE(engine_->submit({&one, 1}).ok());
    const Completion expected{one.tag, CompletionEvent::kDone, StatusCode::kOk, 0};
    EXPECT_EQ(collect(*engine_, 1)[0], expected);
  }

  ScratchDirectory directory_;
  FileDescriptor file_;
  FileDescriptor read_only_;
  AlignedBytes registered_{64 * kBlock};
  AlignedBytes buffer_{64 * kBlock};  // not registered
  std::unique_ptr<IoEngine> engine_;
};

TEST_P(IoEngineContract, ManyMoreOperationsThanDepthEndOnceEach) {
  fill_random(registered_.span(), 1);
  std::vector<IoOp> writes;
  for (uint64_t i = 0; i < 64; ++i)
    writes.push_back(op(IoKind::kWrite, i, registered_.part(i * kBlock, kBlock), 100 + i));
  ASSERT_TRUE(engine_->submit(writes).ok());
  EXPECT_EQ(engine_->pending(), 64U);
  std::map<uint64_t, int> ends;
  for (const Completion& completion : collect(*engine_, 64)) {
    EXPECT_EQ(completion.code, StatusCode::kOk);
    EXPECT_EQ(completion.event, CompletionEvent::kDone);
    ++ends[completion.tag];
  }
  for (uint64_t i = 0; i < 64; ++i) EXPECT_EQ(ends[100 + i], 1) << i;
  EXPECT_EQ(engine_->pending(), 0U);
  // The bytes are on disk, as an ordinary read sees them, and come back into memory that is not registered.
  AlignedBytes truth(64 * kBlock);
  ASSERT_EQ(::pread(file_.get(), truth.data(), 64 * kBlock, 0), static_cast<ssize_t>(64 * kBlock));
  EXPECT_TRUE(std::ranges::equal(truth.span(), registered_.span()));
  run(op(IoKind::kRead, 0, buffer_.span(), 7));
  EXPECT_TRUE(std::ranges::equal(buffer_.span(), registered_.span()));
}

TEST_P(IoEngineContract, SyncEnds) {
  run(op(IoKind::kWrite, 0, buffer_.part(0, kBlock), 1));
  run({IoKind::kSync, 0, 0, {}, 2, kNoDeadline});
}

TEST_P(IoEngineContract, ReadBeyondTheEndOfTheFileFails) {
  run(op(IoKind::kWrite, 0, buffer_.part(0, 2 * kBlock), 1));
  const IoOp read = op(IoKind::kRead, 1, buffer_.part(0, 2 * kBlock), 2);
  ASSERT_TRUE(engine_->submit({&read, 1}).ok());
  EXPECT_EQ(collect(*engine_, 1)[0], (Completion{2, CompletionEvent::kDone, StatusCode::kIo, 0}));
}

TEST_P(IoEngineContract, ErrorsOfTheSystemComeBackAsErrno) {
  const IoOp write{IoKind::kWrite, 1, 0, buffer_.part(0, kBlock), 3, kNoDeadline};
  ASSERT_TRUE(engine_->submit({&write, 1}).ok());
  EXPECT_EQ(collect(*engine_, 1)[0], (Completion{3, CompletionEvent::kDone, StatusCode::kIo, EBADF}));
}

TEST_P(IoEngineContract, BadOperationsAreRefusedTogetherWithTheirBatch) {
  const IoOp good = op(IoKind::kWrite, 0, buffer_.part(0, kBlock), 1);
  IoOp bad = good;
  bad.file = 2;
  EXPECT_EQ(engine_->submit(std::array{good, bad}).code(), StatusCode::kInvalid);
  bad = good;
  bad.buffer = {};
  EXPECT_EQ(engine_->submit(std::array{good, bad}).code(), StatusCode::kInvalid);
  bad = good;
  bad.offset = UINT64_MAX - 10;
  EXPECT_EQ(engine_->submit(std::array{good, bad}).code(), StatusCode::kInvalid);
  EXPECT_EQ(engine_->pending(), 0U);
  std::array<Completion, 4> out;
  EXPECT_EQ(*engine_->poll(out, 0ns), 0U);
}

TEST_P(IoEngineContract, WhatIsOverdueAtTheStartFailsWithoutTouchingItsBuffer) {
  StepClock clock;
  open_engine(clock);
  run(op(IoKind::kWrite, 0, buffer_.part(0, kBlock), 1));
  fill_random(buffer_.span(), 2);
  AlignedBytes before(kBlock);
  std::ranges::copy(buffer_.part(0, kBlock), before.data());
  IoOp read = op(IoKind::kRead, 0, buffer_.part(0, kBlock), 2);
  read.deadline = clock.now();
  ASSERT_TRUE(engine_->submit({&read, 1}).ok());
  // A worker may just have taken it when poll judges it: then it expires first.
  const Completion end = collect(*engine_, 1)[0];
  EXPECT_EQ(end.tag, 2U);
  EXPECT_EQ(end.code, StatusCode::kDeadline);
  if (end.event == CompletionEvent::kExpired) {
    EXPECT_EQ(collect(*engine_, 1)[0].event, CompletionEvent::kReleased);
  }
  EXPECT_TRUE(std::ranges::equal(buffer_.part(0, kBlock), before.span()));
}

TEST_P(IoEngineContract, PollKeepsWhatDoesNotFit) {
  std::vector<IoOp> writes;
  for (uint64_t i = 0; i < 5; ++i) writes.push_back(op(IoKind::kWrite, i, buffer_.part(0, kBlock), i));
  ASSERT_TRUE(engine_->submit(writes).ok());
  std::map<uint64_t, int> ends;
  while (engine_->pending() > 0) {
    std::array<Completion, 1> one;
    const auto count = engine_->poll(one, 1s);
    ASSERT_TRUE(count.ok());
    if (*count == 1) ++ends[one[0].tag];
  }
  EXPECT_EQ(ends.size(), 5U);
}

TEST_P(IoEngineContract, PollWaitsAndGivesUp) {
  std::array<Completion, 1> out;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(*engine_->poll(out, 30ms), 0U);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 30ms);
}

TEST_P(IoEngineContract, WakeEndsThePollThatWaits) {
  std::array<Completion, 1> out;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 3; ++i) {
    std::thread other([this] {
      std::this_thread::sleep_for(10ms);
      engine_->wake();
    });
    EXPECT_EQ(*engine_->poll(out, 20s), 0U);
    other.join();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

TEST_P(IoEngineContract, WakeBeforePollIsNotLostAndCountsOnce) {
  std::array<Completion, 1> out;
  engine_->wake();
  engine_->wake();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(*engine_->poll(out, 20s), 0U);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_EQ(*engine_->poll(out, 30ms), 0U);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 30ms);
}

TEST_P(IoEngineContract, TheThreadThatUsesItNeedNotBeTheOneThatMadeIt) {
  std::thread user([this] {
    run(op(IoKind::kWrite, 0, registered_.part(0, kBlock), 1));
    run(op(IoKind::kRead, 0, buffer_.part(0, kBlock), 2));
  });
  user.join();
  EXPECT_EQ(engine_->pending(), 0U);
}

TEST_P(IoEngineContract, IsDestroyedWithWorkUnderWay) {
  std::vector<IoOp> writes;
  for (uint64_t i = 0; i < 40; ++i)
    writes.push_back(op(IoKind::kWrite, i, registered_.part(0, 8 * kBlock), i));
  ASSERT_TRUE(engine_->submit(writes).ok());
  engine_.reset();
  // Nothing reads or writes the buffer from here on; a sanitizer or the next test would tell.
  fill_random(registered_.span(), 3);
}

TEST_P(IoEngineContract, LeavesNoDescriptorOpen) {
  engine_.reset();
  const size_t before = open_descriptors();
  open_engine(steady_clock());
  run(op(IoKind::kWrite, 0, buffer_.part(0, kBlock), 1));
  engine_.reset();
  EXPECT_EQ(open_descriptors(), before);
}

TEST_P(IoEngineContract, OptionsOutOfRangeAreRefused) {
  IoEngineOptions options;
  EXPECT_EQ(std::get<0>(GetParam()).factory(options, steady_clock()).status().code(), StatusCode::kInvalid);
  options.files = {file_.get()};
  options.depth = 0;
  EXPECT_EQ(std::get<0>(GetParam()).factory(options, steady_clock()).status().code(), StatusCode::kInvalid);
  options.depth = kMaxIoDepth + 1;
  EXPECT_EQ(std::get<0>(GetParam()).factory(options, steady_clock()).status().code(), StatusCode::kInvalid);
}

INSTANTIATE_TEST_SUITE_P(All, IoEngineContract,
                         ::testing::Combine(::testing::ValuesIn(implementations()), ::testing::Bool()),
                         [](const auto& test) {
                           return std::get<0>(test.param).name +
                                  (std::get<1>(test.param) ? "_direct" : "_cached");
                         });

}  // namespace
}  // namespace quire::testing
