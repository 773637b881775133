// What is particular to one io engine: how short transfers are resumed, operations that hang, and the choice
// between engines.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "offload/file_descriptor.h"
#include "offload/open_engine.h"
#include "offload/thread_engine.h"
#include "offload/transfer.h"
#include "offload/uring_engine.h"
#include "tests/offload/support.h"

namespace quire::testing {
namespace {

TEST(Transfer, ShortResultsAreResumedWhereTheyEnded) {
  AlignedBytes buffer(1000);
  Transfer transfer{{IoKind::kRead, 0, 5000, buffer.span(), 9, kNoDeadline}};
  EXPECT_FALSE(advance(transfer, 300));
  EXPECT_EQ(transfer.offset(), 5300U);
  EXPECT_EQ(transfer.rest().data(), buffer.data() + 300);
  EXPECT_EQ(transfer.rest().size(), 700U);
  EXPECT_FALSE(advance(transfer, -EINTR));
  EXPECT_EQ(transfer.offset(), 5300U);
  EXPECT_EQ(advance(transfer, 700), (Completion{9, CompletionEvent::kDone, StatusCode::kOk, 0}));
}

TEST(Transfer, NothingMovedIsAnError) {
  AlignedBytes buffer(1000);
  Transfer read{{IoKind::kRead, 0, 0, buffer.span(), 1, kNoDeadline}};
  EXPECT_EQ(advance(read, 0), (Completion{1, CompletionEvent::kDone, StatusCode::kIo, 0}));
  Transfer write{{IoKind::kWrite, 0, 0, buffer.span(), 2, kNoDeadline}};
  EXPECT_EQ(advance(write, 0), (Completion{2, CompletionEvent::kDone, StatusCode::kIo, EIO}));
}

TEST(Transfer, InterruptionsDoNotGoOnForEver) {
  AlignedBytes buffer(1000);
  Transfer transfer{{IoKind::kRead, 0, 0, buffer.span(), 1, kNoDeadline}};
  uint32_t tries = 0;
  std::optional<Completion> end;
  while (!end && tries < 1000) {
    end = advance(transfer, -EAGAIN);
    ++tries;
  }
  ASSERT_TRUE(end);
  EXPECT_EQ(end->os_error, EAGAIN);
}

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{-1, -1};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    out = FileDescriptor(ends[0]);
    in = FileDescriptor(ends[1]);
  }
  FileDescriptor out;
  FileDescriptor in;
};

IoEngineOptions options_for(int fd, uint32_t depth = 8) {
  IoEngineOptions options;
  options.depth = depth;
  options.files = {fd};
  return options;
}

// io_uring reads pipes at any offset, and a pipe gives what it has: a short read that the test controls.
TEST(UringEngine, ResumesShortReads) {
  Pipe pipe;
  auto engine = UringEngine::create(options_for(pipe.out.get()), steady_clock());
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  AlignedBytes buffer(10);
  const IoOp read{IoKind::kRead, 0, 0, buffer.span(), 1, kNoDeadline};
  ASSERT_TRUE((*engine)->submit({&read, 1}).ok());
  std::array<Completion, 1> out;
  for (const char* piece : {"0123", "45", "67"}) {
    ASSERT_EQ(::write(pipe.in.get(), piece, std::strlen(piece)), static_cast<ssize_t>(std::strlen(piece)));
    EXPECT_EQ(*(*engine)->poll(out, 20ms), 0U);
  }
  ASSERT_EQ(::write(pipe.in.get(), "89", 2), 2);
  EXPECT_EQ(collect(**engine, 1)[0].code, StatusCode::kOk);
  EXPECT_EQ(std::string(buffer.data(), buffer.data() + 10), "0123456789");
}

TEST(UringEngine, AnOperationThatHangsExpiresAndIsReleased) {
  Pipe pipe;
  StepClock clock;
  auto engine = UringEngine::create(options_for(pipe.out.get(), 1), clock);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  AlignedBytes buffer(20);
  const std::array ops{IoOp{IoKind::kRead, 0, 0, buffer.part(0, 10), 1, clock.now() + 5s},
                       IoOp{IoKind::kRead, 0, 0, buffer.part(10, 10), 2, clock.now() + 60s}};
  ASSERT_TRUE((*engine)->submit(ops).ok());
  std::array<Completion, 2> out;
  EXPECT_EQ(*(*engine)->poll(out, 10ms), 0U);
  clock.advance(6s);
  const auto ends = collect(**engine, 2);
  EXPECT_EQ(ends[0], (Completion{1, CompletionEvent::kExpired, StatusCode::kDeadline, 0}));
  EXPECT_EQ(ends[1], (Completion{1, CompletionEvent::kReleased, StatusCode::kDeadline, 0}));
  // The cancellation has made room for the one behind it, and did not hit it.
  ASSERT_EQ(::write(pipe.in.get(), "0123456789", 10), 10);
  EXPECT_EQ(collect(**engine, 1)[0], (Completion{2, CompletionEvent::kDone, StatusCode::kOk, 0}));
}

TEST(UringEngine, WorksWithBuffersThatCannotBeRegistered) {
  ScratchDirectory directory;
  const FileDescriptor file(::open((directory.path() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  AlignedBytes buffer(1 << 20);
  // Only a process without privileges is held to the limit on locked memory.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{256 << 10, 256 << 10};  // a ring fits, the buffer does not
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || (::getuid() == 0 && ::setuid(65534) != 0)) ::_exit(2);
    IoEngineOptions options = options_for(file.get());
    options.buffers = {buffer.span()};
    auto engine = UringEngine::create(options, steady_clock());
    if (!engine.ok()) ::_exit(3);
    if ((*engine)->note().find("not registered") == std::string::npos) ::_exit(4);
    const IoOp write{IoKind::kWrite, 0, 0, buffer.span(), 1, kNoDeadline};
    if (!(*engine)->submit({&write, 1}).ok()) ::_exit(5);
    ::_exit(collect(**engine, 1)[0].code == StatusCode::kOk ? 0 : 6);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// A gate that calls of the fake system wait at.
class Gate {
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

TEST(ThreadEngine, ResumesShortTransfersAndInterruptedCalls) {
  std::vector<std::pair<size_t, off_t>> calls;
  FileCalls fake = system_file_calls();
  fake.read = [&](int, void* data, size_t bytes, off_t offset) -> ssize_t {
    calls.emplace_back(bytes, offset);
    if (calls.size() == 2) {
      errno = EINTR;
      return -1;
    }
    const size_t moved = std::min<size_t>(bytes, 400);
    std::memset(data, static_cast<int>(calls.size()), moved);
    return static_cast<ssize_t>(moved);
  };
  auto engine = ThreadEngine::create(options_for(0, 1), steady_clock(), fake);
  ASSERT_TRUE(engine.ok());
  AlignedBytes buffer(1000);
  const IoOp read{IoKind::kRead, 0, 4096, buffer.span(), 1, kNoDeadline};
  ASSERT_TRUE((*engine)->submit({&read, 1}).ok());
  EXPECT_EQ(collect(**engine, 1)[0].code, StatusCode::kOk);
  const std::vector<std::pair<size_t, off_t>> expected{{1000, 4096}, {600, 4496}, {600, 4496}, {200, 4896}};
  EXPECT_EQ(calls, expected);
  EXPECT_EQ(buffer.span()[399], 1);
  EXPECT_EQ(buffer.span()[400], 3);
  EXPECT_EQ(buffer.span()[999], 4);
}

TEST(ThreadEngine, AnOperationThatHangsExpiresAndIsReleased) {
  Gate gate;
  std::atomic<int> started{0};
  FileCalls fake = system_file_calls();
  fake.write = [&](int, const void*, size_t bytes, off_t) -> ssize_t {
    ++started;
    gate.wait();
    return static_cast<ssize_t>(bytes);
  };
  StepClock clock;
  auto engine = ThreadEngine::create(options_for(0, 1), clock, fake);
  ASSERT_TRUE(engine.ok());
  AlignedBytes buffer(100);
  const std::array ops{IoOp{IoKind::kWrite, 0, 0, buffer.span(), 1, clock.now() + 5s},
                       IoOp{IoKind::kWrite, 0, 0, buffer.span(), 2, clock.now() + 5s},
                       IoOp{IoKind::kWrite, 0, 0, buffer.span(), 3, clock.now() + 60s}};
  ASSERT_TRUE((*engine)->submit(ops).ok());
  while (started == 0) std::this_thread::yield();
  clock.advance(6s);
  // The second one never started, so its buffer is free at once.
  auto ends = collect(**engine, 2);
  std::ranges::sort(ends, {}, &Completion::tag);
  EXPECT_EQ(ends[0], (Completion{1, CompletionEvent::kExpired, StatusCode::kDeadline, 0}));
  EXPECT_EQ(ends[1], (Completion{2, CompletionEvent::kDone, StatusCode::kDeadline, 0}));
  EXPECT_EQ((*engine)->pending(), 2U);
  gate.open();
  ends = collect(**engine, 2);
  EXPECT_EQ(ends[0], (Completion{1, CompletionEvent::kReleased, StatusCode::kDeadline, 0}));
  EXPECT_EQ(ends[1], (Completion{3, CompletionEvent::kDone, StatusCode::kOk, 0}));
}

TEST(OpenEngine, TakesWhatIsAskedFor) {
  auto engine = open_io_engine({IoEngineKind::kThreads, 8, {0}, {}}, steady_clock());
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ((*engine)->name(), "threads");
  engine = open_io_engine({IoEngineKind::kUring, 8, {0}, {}}, steady_clock());
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  EXPECT_EQ((*engine)->name(), "io_uring");
}

TEST(OpenEngine, FallsBackToThreadsAndSaysWhy) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizers need descriptors of their own for their checks";
#endif
  // A process that may open no further descriptor gets no ring.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  auto automatic = open_io_engine({IoEngineKind::kAuto, 8, {0}, {}}, steady_clock());
  auto forced = open_io_engine({IoEngineKind::kUring, 8, {0}, {}}, steady_clock());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(automatic.ok());
  EXPECT_EQ((*automatic)->name(), "threads");
  EXPECT_NE((*automatic)->note().find("because io_uring"), std::string::npos) << (*automatic)->note();
  EXPECT_EQ(forced.status().code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace quire::testing
