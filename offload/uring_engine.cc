#include "offload/uring_engine.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include <cerrno>
#include <numeric>

#include "offload/io_wait.h"
#include "offload/os_error.h"

namespace quire {
namespace {

// User data of requests that are no operation's.
constexpr uint64_t kWakeRequest = UINT64_MAX;
constexpr uint64_t kCancelRequest = UINT64_MAX - 1;

constexpr uint32_t kIndexBits = 10;
static_assert(kMaxIoDepth <= 1U << kIndexBits);

Status refused(const char* what, int os_error) {
  return {StatusCode::kUnsupported,
          std::string("io_uring: ") + what + ": " + os_error_text(os_error) + "; use the thread engine"};
}

__kernel_timespec to_timespec(Nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  __kernel_timespec spec{};
  spec.tv_sec = seconds.count();
  spec.tv_nsec = (time - seconds).count();
  return spec;
}

}  // namespace

Result<std::unique_ptr<IoEngine>> UringEngine::create(const IoEngineOptions& options, const Clock& clock) {
  if (Status status = check_options(options); !status.ok()) return status;
  std::unique_ptr<UringEngine> engine(new UringEngine(options, clock));
  if (Status status = engine->create_ring(); !status.ok()) return status;
  if (Status status = engine->register_files(); !status.ok()) return status;
  engine->register_buffers();
  return std::unique_ptr<IoEngine>(std::move(engine));
}

UringEngine::UringEngine(const IoEngineOptions& options, const Clock& clock)
    : clock_(clock),
      depth_(options.depth),
      files_(options.files),
      buffers_(options.buffers),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      flights_(options.depth),
      free_flights_(options.depth) {
  std::iota(free_flights_.rbegin(), free_flights_.rend(), 0);
}

UringEngine::~UringEngine() {
  if (!ring_open_) return;
  waiting_.clear();
  for (uint32_t i = 0; i < depth_; ++i) {
    if (flights_[i].active) prepare_cancel(i);
    flights_[i].expired = true;
  }
  while (free_flights_.size() < depth_ && enter(kLongestWait).ok()) reap();
  // The kernel takes a ring apart in its own time; files are to be closed when their owner closes them.
  io_uring_unregister_files(&ring_);
  io_uring_queue_exit(&ring_);
}

Status UringEngine::create_ring() {
  if (!wake_fd_.valid()) return refused("no eventfd", errno);
  // An operation and its cancellation per flight, and the wake request: an operation always finds room.
  const uint32_t entries = 2 * depth_ + 1;
  // Disabled until the owner is known, so that any thread may create the engine.
  io_uring_params params{};
  params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  int error = io_uring_queue_init_params(entries, &ring_, &params);
  if (error == -EINVAL) {  // before Linux 6.1
    params = {};
    params.flags = IORING_SETUP_R_DISABLED;
    error = io_uring_queue_init_params(entries, &ring_, &params);
  }
  if (error < 0) return refused("the kernel refuses a ring", -error);
  ring_open_ = true;
  constexpr uint32_t kNeeded = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
  if ((params.features & kNeeded) != kNeeded) return refused("the kernel is older than 5.11", ENOSYS);
  return {};
}

Status UringEngine::register_files() {
  const int error = io_uring_register_files(&ring_, files_.data(), static_cast<unsigned>(files_.size()));
  return error < 0 ? refused("the kernel refuses to register files", -error) : Status();
}

void UringEngine::register_buffers() {
  std::string note = std::to_string(depth_) + " requests deep";
  if (!buffers_.empty()) {
    std::vector<iovec> regions;
    regions.reserve(buffers_.size());
    for (const auto buffer : buffers_) regions.push_back({buffer.data(), buffer.size()});
    const int error =
        io_uring_register_buffers(&ring_, regions.data(), static_cast<unsigned>(regions.size()));
    if (error < 0) buffers_.clear();
    note += error < 0 ? ", buffers not registered: " + os_error_text(-error) + " (see ulimit -l)"
                      : ", buffers registered";
  }
  set_note(std::move(note));
}

// Debian bookworm's liburing 2.3 declares io_uring_enable_rings but does not export it.
Status UringEngine::enable() {
  if (enabled_) return {};
  if (syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) < 0) {
    return {StatusCode::kIo, "io_uring cannot be enabled: " + os_error_text(errno)};
  }
  enabled_ = true;
  prepare_wake();
  return {};
}

Status UringEngine::submit(std::span<const IoOp> ops) {
  if (Status status = check_ops(ops, files_.size()); !status.ok()) return status;
  if (Status status = enable(); !status.ok()) return status;
  waiting_.insert(waiting_.end(), ops.begin(), ops.end());
  pending_ += ops.size();
  start_waiting();
  return enter(Nanoseconds::zero());
}

Result<size_t> UringEngine::poll(std::span<Completion> out, Nanoseconds timeout) {
  if (Status status = enable(); !status.ok()) return status;
  const auto end = wait_end(timeout);
  Nanoseconds left = timeout;
  do {
    const bool wait = ready_.empty() && !woken_ && left > Nanoseconds::zero();
    const Nanoseconds longest =
        wait ? std::min(left, time_until(next_deadline(), clock_.now())) : Nanoseconds::zero();
    if (Status status = enter(longest); !status.ok()) return status;
    reap();
    expire();
    start_waiting();
    left = end - std::chrono::steady_clock::now();
  } while (ready_.empty() && !woken_ && left > Nanoseconds::zero());
  woken_ = false;
  if (io_uring_sq_ready(&ring_) > 0) {
    if (Status status = enter(Nanoseconds::zero()); !status.ok()) return status;
  }
  return take_completions(ready_, out, pending_);
}

void UringEngine::wake() {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then a wake is due anyway.
  [[maybe_unused]] const ssize_t written = ::write(wake_fd_.get(), &one, sizeof(one));
}

void UringEngine::start_waiting() {
  expire_waiting(waiting_, clock_.now(), ready_);
  while (!waiting_.empty() && !free_flights_.empty()) {
    const uint32_t index = free_flights_.back();
    free_flights_.pop_back();
    flights_[index] = {Transfer{waiting_.front()}, next_serial_++ << kIndexBits | index, true, false};
    waiting_.pop_front();
    prepare(index);
  }
}

void UringEngine::prepare(uint32_t index) {
  const Transfer& transfer = flights_[index].transfer;
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  const auto file = static_cast<int>(transfer.op.file);
  const auto rest = transfer.rest();
  const auto bytes = static_cast<unsigned>(rest.size());
  const int buffer = registered_index(rest);
  switch (transfer.op.kind) {
    case IoKind::kRead:
      if (buffer >= 0) {
        io_uring_prep_read_fixed(sqe, file, rest.data(), bytes, transfer.offset(), buffer);
      } else {
        io_uring_prep_read(sqe, file, rest.data(), bytes, transfer.offset());
      }
      break;
    case IoKind::kWrite:
      if (buffer >= 0) {
        io_uring_prep_write_fixed(sqe, file, rest.data(), bytes, transfer.offset(), buffer);
      } else {
        io_uring_prep_write(sqe, file, rest.data(), bytes, transfer.offset());
      }
      break;
    case IoKind::kSync:
      io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
      break;
  }
  io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data64(sqe, flights_[index].request);
}

// The registered region that holds all of `buffer`, or -1.
int UringEngine::registered_index(std::span<const uint8_t> buffer) const {
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const uint8_t* begin = buffers_[i].data();
    if (buffer.data() >= begin && buffer.data() + buffer.size() <= begin + buffers_[i].size()) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

void UringEngine::prepare_cancel(uint32_t index) {
  // Cancelling is a courtesy: it must not take the room that operations and the wake request may need.
  if (io_uring_sq_space_left(&ring_) <= depth_ + 1) return;
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  io_uring_prep_cancel64(sqe, flights_[index].request, 0);
  io_uring_sqe_set_data64(sqe, kCancelRequest);
}

void UringEngine::prepare_wake() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  io_uring_prep_poll_add(sqe, wake_fd_.get(), POLLIN);
  io_uring_sqe_set_data64(sqe, kWakeRequest);
}

// Hands prepared requests to the kernel and waits for a result, at most that long.
Status UringEngine::enter(Nanoseconds wait) {
  int error = 0;
  if (wait > Nanoseconds::zero()) {
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec spec = to_timespec(wait);
    error = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &spec, nullptr);
  } else {
    error = io_uring_submit_and_get_events(&ring_);
  }
  // Busy or short of memory: what was not taken stays prepared for the next call.
  if (error >= 0 || error == -ETIME || error == -EINTR || error == -EAGAIN || error == -EBUSY) return {};
  return {StatusCode::kIo, "io_uring has failed: " + os_error_text(-error)};
}

void UringEngine::reap() {
  io_uring_cqe* cqe = nullptr;
  while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
    const uint64_t request = io_uring_cqe_get_data64(cqe);
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    if (request == kWakeRequest) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t bytes = ::read(wake_fd_.get(), &count, sizeof(count));
      woken_ = true;
      prepare_wake();
    } else if (request != kCancelRequest) {
      finish(request & ((1U << kIndexBits) - 1), result);
    }
  }
}

void UringEngine::finish(uint32_t index, int result) {
  Flight& flight = flights_[index];
  if (flight.expired) {
    ready_.push_back(released(flight.transfer.op));
  } else if (const auto completion = advance(flight.transfer, result)) {
    ready_.push_back(*completion);
  } else {
    prepare(index);
    return;
  }
  flight.active = false;
  free_flights_.push_back(index);
}

void UringEngine::expire() {
  const Nanoseconds now = clock_.now();
  for (uint32_t i = 0; i < depth_; ++i) {
    Flight& flight = flights_[i];
    if (!flight.active || flight.expired || now < flight.transfer.op.deadline) continue;
    flight.expired = true;
    ready_.push_back(expired(flight.transfer.op));
    prepare_cancel(i);
  }
}

Nanoseconds UringEngine::next_deadline() const {
  Nanoseconds next = kNoDeadline;
  for (const IoOp& op : waiting_) next = std::min(next, op.deadline);
  for (const Flight& flight : flights_) {
    if (flight.active && !flight.expired) next = std::min(next, flight.transfer.op.deadline);
  }
  return next;
}

}  // namespace quire
