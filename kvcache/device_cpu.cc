#include "kvcache/device_cpu.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include "kvcache/os_memory.h"

namespace quire {

namespace {

using Work = std::function<void()>;

// The work of one stream. Each piece gets a ticket, 1, 2, ...; pieces run one at a time in this order.
//
// No deadlock: a piece waits only for tickets that were given out before it was pushed, so of all pieces of
// all queues that have not run, the oldest one can always go ahead. Whoever needs it runs it, or sleeps while
// another thread does.
class WorkQueue {
 public:
  // The new piece's ticket.
  uint64_t push(Work work) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    ++pushed_;
    if (!draining_) work_ready_.notify_one();
    return pushed_;
  }

  uint64_t last_ticket() const {
    const std::lock_guard lock(mutex_);
    return pushed_;
  }

  bool has_run(uint64_t ticket) const {
    const std::lock_guard lock(mutex_);
    return completed_ >= ticket;
  }

  bool idle() const {
    const std::lock_guard lock(mutex_);
    return completed_ == pushed_;
  }

  // Returns when the piece with this ticket has run: runs it and those before it, or sleeps while another
  // thread is at it.
  void run_until(uint64_t ticket) {
    std::unique_lock lock(mutex_);
    while (completed_ < ticket) {
      if (draining_) {
        progressed_.wait(lock);
      } else {
        drain(ticket, lock);
      }
    }
  }

  // A worker thread's life.
  void run_until_stopped() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_ready_.wait(lock, [this] { return stopped_ || (!draining_ && !queue_.empty()); });
      if (stopped_) return;
      drain(pushed_, lock);
    }
  }

  // Sends the worker home; the queue must be idle.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    work_ready_.notify_one();
  }

 private:
  // noexcept: what work throws ends the process, since nobody could be told.
  void drain(uint64_t ticket, std::unique_lock<std::mutex>& lock) noexcept {
    draining_ = true;
    while (completed_ < ticket) {
      Work work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      work = nullptr;  // what it holds is let go before anyone is told that it has run
      lock.lock();
      ++completed_;
      progressed_.notify_all();
    }
    draining_ = false;
    progressed_.notify_all();
    if (!queue_.empty()) work_ready_.notify_one();
  }

  mutable std::mutex mutex_;
  std::condition_variable work_ready_;  // for the worker
  std::condition_variable progressed_;  // for threads in run_until
  std::deque<Work> queue_;
  uint64_t pushed_ = 0;
  uint64_t completed_ = 0;
  bool draining_ = false;  // a thread is running work
  bool stopped_ = false;
};

// A point of a queue: all pieces up to a ticket.
struct QueuePoint {
  std::shared_ptr<WorkQueue> queue;  // nullptr: nothing was recorded
  uint64_t ticket = 0;

  bool reached() const { return queue == nullptr || queue->has_run(ticket); }
  void reach() const {
    if (queue != nullptr) queue->run_until(ticket);
  }
};

class CpuEvent final : public Event {
 public:
  Status query() override {
    if (point().reached()) return {};
    return {StatusCode::kNotReady, "work before the event is still queued or running"};
  }

  Status synchronize() override {
    point().reach();
    return {};
  }

  QueuePoint point() const {
    const std::lock_guard lock(mutex_);
    return point_;
  }

  void set_point(QueuePoint point) {
    const std::lock_guard lock(mutex_);
    point_ = std::move(point);
  }

 private:
  mutable std::mutex mutex_;
  QueuePoint point_;
};

Status foreign_event() { return invalid("the event belongs to another kind of device than the stream"); }

class CpuStream final : public Stream {
 public:
  explicit CpuStream(bool lazy) : queue_(std::make_shared<WorkQueue>()) {
    if (!lazy) worker_ = std::thread([this] { queue_->run_until_stopped(); });
  }

  ~CpuStream() override {
    queue_->run_until(queue_->last_ticket());
    queue_->stop();
    if (worker_.joinable()) worker_.join();
  }

  Status launch(Work work) override {
    if (!work) return invalid("launch was given an empty function; give it one to call");
    queue_->push(std::move(work));
    return {};
  }

  Status copy(void* dst, const void* src, size_t bytes) override {
    if (bytes == 0) return {};
    if (dst == nullptr || src == nullptr) {
      return invalid("copy of " + std::to_string(bytes) + " bytes from or to a null pointer");
    }
    queue_->push([dst, src, bytes] { std::memcpy(dst, src, bytes); });
    return {};
  }

  Status record(Event& event) override {
    auto* cpu_event = dynamic_cast<CpuEvent*>(&event);
    if (cpu_event == nullptr) return foreign_event();
    cpu_event->set_point({queue_, queue_->last_ticket()});
    return {};
  }

  Status wait(Event& event) override {
    const auto* cpu_event = dynamic_cast<CpuEvent*>(&event);
    if (cpu_event == nullptr) return foreign_event();
    QueuePoint point = cpu_event->point();
    // A point of this very stream lies behind whatever comes next.
    if (point.queue == queue_ || point.reached()) return {};
    queue_->push([point = std::move(point)] { point.reach(); });
    return {};
  }

  bool idle() override { return queue_->idle(); }

  Status synchronize() override {
    queue_->run_until(queue_->last_ticket());
    return {};
  }

 private:
  const std::shared_ptr<WorkQueue> queue_;  // shared with events and with streams that wait for them
  std::thread worker_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options) : lazy_(options.lazy) {}

  Result<DeviceBuffer> allocate(size_t bytes) override {
    if (bytes == 0) return DeviceBuffer();
    const size_t mapped = round_to_os_pages(bytes);
    uint8_t* data = mapped < bytes ? nullptr : map_os_pages(mapped);
    if (data == nullptr) {
      return Status(StatusCode::kOverBudget,
                    "the cpu device has no " + std::to_string(bytes) + " bytes; lower the device budget");
    }
    return DeviceBuffer(*this, data, bytes);
  }

  Result<std::unique_ptr<Stream>> create_stream() override {
    try {
      return std::unique_ptr<Stream>(std::make_unique<CpuStream>(lazy_));
    } catch (const std::system_error& error) {
      return Status(StatusCode::kUnsupported, std::string("the system gave no thread for a stream (") +
                                                  error.what() + "); raise the limit on threads");
    }
  }

  Result<std::unique_ptr<Event>> create_event() override {
    return std::unique_ptr<Event>(std::make_unique<CpuEvent>());
  }

  std::string_view name() const override { return "cpu"; }

 protected:
  void deallocate(uint8_t* data, size_t bytes) override { unmap_os_pages(data, round_to_os_pages(bytes)); }

 private:
  const bool lazy_;
};

}  // namespace

std::unique_ptr<Device> create_cpu_device(const CpuDeviceOptions& options) {
  return std::make_unique<CpuDevice>(options);
}

}  // namespace quire
