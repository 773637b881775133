// The faults of the fault-injecting engine look as their table says: what the caller sees, and what the disk
// holds.
#include "tests/offload/faulty_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <bit>
#include <cerrno>
#include <set>

#include "offload/file_descriptor.h"
#include "tests/offload/support.h"

namespace quire::testing {
namespace {

constexpr size_t kBytes = 4 * 4096;
constexpr size_t kHalf = kBytes / 2;
constexpr uint64_t kAt = 8 * 4096;

class FaultyEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = directory_.path() + "/file";
    file_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    fill_random(before_.span(), 1);
    ASSERT_EQ(::pwrite(file_.get(), before_.data(), before_.span().size(), 0),
              static_cast<ssize_t>(before_.span().size()));
    auto engine = faulty_engine_factory(plan_)({IoEngineKind::kAuto, 8, {file_.get()}, {}}, clock_);
    ASSERT_TRUE(engine.ok());
    engine_ = std::move(*engine);
    fill_random(buffer_.span(), 2);
  }

  void submit(IoKind kind, Nanoseconds deadline = kNoDeadline) {
    const IoOp op{kind, 0, kAt, kind == IoKind::kSync ? std::span<uint8_t>() : buffer_.span(), 5, deadline};
    ASSERT_TRUE(engine_->submit({&op, 1}).ok());
  }
  Completion run(IoKind kind) {
    submit(kind);
    return collect(*engine_, 1)[0];
  }
  std::vector<uint8_t> on_disk(uint64_t offset, size_t bytes) {
    std::vector<uint8_t> data(bytes);
    EXPECT_EQ(::pread(file_.get(), data.data(), bytes, static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes));
    return data;
  }
  std::vector<uint8_t> was_on_disk(uint64_t offset, size_t bytes) {
    const auto part = before_.part(offset, bytes);
    return {part.begin(), part.end()};
  }
  std::vector<uint8_t> in_buffer(size_t offset, size_t bytes) {
    const auto part = buffer_.part(offset, bytes);
    return {part.begin(), part.end()};
  }
  void expect_failed(const Completion& completion, int os_error) {
    EXPECT_EQ(completion, (Completion{5, CompletionEvent::kDone, StatusCode::kIo, os_error}));
  }
  void expect_ok(const Completion& completion) {
    EXPECT_EQ(completion, (Completion{5, CompletionEvent::kDone, StatusCode::kOk, 0}));
  }

  ScratchDirectory directory_;
  FileDescriptor file_;
  StepClock clock_;
  AlignedBytes before_{32 * 4096};
  AlignedBytes buffer_{kBytes};
  std::shared_ptr<FaultPlan> plan_ = std::make_shared<FaultPlan>();
  std::unique_ptr<IoEngine> engine_;
};

TEST_F(FaultyEngineTest, ErrorsReachNothing) {
  for (const IoKind kind : {IoKind::kRead, IoKind::kWrite, IoKind::kSync}) {
    plan_->add({Fault::kEio, kind});
    expect_failed(run(kind), EIO);
    EXPECT_EQ(plan_->hits(Fault::kEio, kind), 1U);
  }
  plan_->add({Fault::kNoSpace, IoKind::kWrite});
  expect_failed(run(IoKind::kWrite), ENOSPC);
  EXPECT_EQ(on_disk(kAt, kBytes), was_on_disk(kAt, kBytes));
}

TEST_F(FaultyEngineTest, RulesCountOperationsOfTheirKind) {
  plan_->add({Fault::kEio, IoKind::kWrite, 2, 2});
  run(IoKind::kRead);
  std::vector<StatusCode> codes;
  for (int i = 0; i < 6; ++i) codes.push_back(run(IoKind::kWrite).code);
  constexpr auto kOk = StatusCode::kOk;
  constexpr auto kIo = StatusCode::kIo;
  EXPECT_EQ(codes, (std::vector{kOk, kOk, kIo, kIo, kOk, kOk}));
  EXPECT_EQ(plan_->hits(), 2U);
  EXPECT_EQ(plan_->operations(IoKind::kWrite), 6U);
}

TEST_F(FaultyEngineTest, ShortMovesHalfAndFails) {
  plan_->add({Fault::kShort, IoKind::kWrite});
  expect_failed(run(IoKind::kWrite), EIO);
  EXPECT_EQ(on_disk(kAt, kHalf), in_buffer(0, kHalf));
  EXPECT_EQ(on_disk(kAt + kHalf, kHalf), was_on_disk(kAt + kHalf, kHalf));
  plan_->add({Fault::kShort, IoKind::kRead});
  expect_failed(run(IoKind::kRead), 0);
}

TEST_F(FaultyEngineTest, TornWritesHalfAndSaysOk) {
  plan_->add({Fault::kTorn, IoKind::kWrite});
  expect_ok(run(IoKind::kWrite));
  EXPECT_EQ(on_disk(kAt, kHalf), in_buffer(0, kHalf));
  EXPECT_EQ(on_disk(kAt + kHalf, kHalf), was_on_disk(kAt + kHalf, kHalf));
}

TEST_F(FaultyEngineTest, BitFlipChangesOneBitOfWhatIsRead) {
  plan_->add({Fault::kBitFlip, IoKind::kRead});
  expect_ok(run(IoKind::kRead));
  const auto truth = was_on_disk(kAt, kBytes);
  int wrong_bits = 0;
  for (size_t i = 0; i < kBytes; ++i)
    wrong_bits += std::popcount(static_cast<uint8_t>(truth[i] ^ buffer_.span()[i]));
  EXPECT_EQ(wrong_bits, 1);
  EXPECT_EQ(on_disk(kAt, kBytes), truth);
}

TEST_F(FaultyEngineTest, MisdirectedLandsBesideThePlace) {
  plan_->add({Fault::kMisdirected, IoKind::kRead});
  expect_ok(run(IoKind::kRead));
  EXPECT_EQ(in_buffer(0, kBytes), was_on_disk(kAt - 4096, kBytes));
  fill_random(buffer_.span(), 3);
  plan_->add({Fault::kMisdirected, IoKind::kWrite});
  expect_ok(run(IoKind::kWrite));
  EXPECT_EQ(on_disk(kAt - 4096, kBytes), in_buffer(0, kBytes));
  EXPECT_EQ(on_disk(kAt - 4096 + kBytes, 4096), was_on_disk(kAt - 4096 + kBytes, 4096));
}

TEST_F(FaultyEngineTest, DelayPassesTheDeadlineAndIsCarriedOutLate) {
  plan_->set_late(2s);
  plan_->add({Fault::kDelay, IoKind::kWrite});
  submit(IoKind::kWrite, clock_.now() + 5s);
  std::array<Completion, 4> out;
  EXPECT_EQ(*engine_->poll(out, 5ms), 0U);
  clock_.advance(6s);
  EXPECT_EQ(collect(*engine_, 1)[0], (Completion{5, CompletionEvent::kExpired, StatusCode::kDeadline, 0}));
  EXPECT_EQ(*engine_->poll(out, 5ms), 0U);
  EXPECT_EQ(on_disk(kAt, kBytes), was_on_disk(kAt, kBytes));
  EXPECT_EQ(engine_->pending(), 1U);
  clock_.advance(2s);
  EXPECT_EQ(collect(*engine_, 1)[0], (Completion{5, CompletionEvent::kReleased, StatusCode::kDeadline, 0}));
  EXPECT_EQ(on_disk(kAt, kBytes), in_buffer(0, kBytes));
  EXPECT_EQ(engine_->pending(), 0U);
}

TEST_F(FaultyEngineTest, DelayCanBeOverdueBeforeItsDeadline) {
  plan_->set_overdue(1s);
  plan_->set_late(2s);
  plan_->add({Fault::kDelay, IoKind::kRead});
  submit(IoKind::kRead, clock_.now() + 5s);
  std::array<Completion, 4> out;
  EXPECT_EQ(*engine_->poll(out, 5ms), 0U);
  clock_.advance(1s);
  EXPECT_EQ(collect(*engine_, 1)[0], (Completion{5, CompletionEvent::kExpired, StatusCode::kDeadline, 0}));
  clock_.advance(2s);
  EXPECT_EQ(collect(*engine_, 1)[0], (Completion{5, CompletionEvent::kReleased, StatusCode::kDeadline, 0}));
  EXPECT_EQ(engine_->pending(), 0U);
}

TEST_F(FaultyEngineTest, DelayWithoutADeadlineIsOnlySlow) {
  plan_->set_late(2s);
  plan_->add({Fault::kDelay, IoKind::kSync});
  submit(IoKind::kSync);
  std::array<Completion, 4> out;
  EXPECT_EQ(*engine_->poll(out, 5ms), 0U);
  clock_.advance(2s);
  expect_ok(collect(*engine_, 1)[0]);
}

TEST_F(FaultyEngineTest, DuplicateEndsTwice) {
  plan_->add({Fault::kDuplicate, IoKind::kRead});
  submit(IoKind::kRead);
  for (const Completion& completion : collect(*engine_, 2)) expect_ok(completion);
  EXPECT_EQ(engine_->pending(), 0U);
}

TEST_F(FaultyEngineTest, ChanceHitsEveryPossiblePairAndNoOther) {
  clock_.advance(1s);
  plan_->set_late(0ns);
  plan_->hit_by_chance(500, {Fault::kEio, Fault::kNoSpace, Fault::kShort, Fault::kTorn, Fault::kBitFlip,
                             Fault::kMisdirected, Fault::kDelay});
  for (int i = 0; i < 600; ++i) run(static_cast<IoKind>(i % 3));
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    if (static_cast<Fault>(fault) == Fault::kDuplicate) continue;
    for (size_t kind = 0; kind < kIoKindCount; ++kind) {
      const uint64_t hits = plan_->hits(static_cast<Fault>(fault), static_cast<IoKind>(kind));
      EXPECT_EQ(hits > 0, possible(static_cast<Fault>(fault), static_cast<IoKind>(kind)))
          << fault_name(static_cast<Fault>(fault)) << " on kind " << kind;
    }
  }
}

}  // namespace
}  // namespace quire::testing
