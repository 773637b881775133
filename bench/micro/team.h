// Threads that are started once and then measure one piece of work after another.
//
// A lap begins when every thread has arrived, so that starting and waking threads is not measured, and ends
// when the last one is done. Waiting threads sleep between laps. Thread safety: one caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace quire::micro {

// Of the slowest thread. On a busy machine `cpu` says what the work costs, `wall` what it took.
struct Lap {
  double wall;
  double cpu;
};

class Team {
 public:
  // The calling thread is one of `threads`.
  explicit Team(uint32_t threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // work(i) on thread i of all. It must not throw.
  Lap run(const std::function<void(uint32_t thread)>& work);
  uint32_t threads() const { return static_cast<uint32_t>(members_.size()) + 1; }

 private:
  struct alignas(64) Finish {
    double at;   // seconds of the monotonic clock
    double cpu;  // seconds of the thread's own clock
  };

  void serve(uint32_t thread);
  void work_and_time(uint32_t thread);

  const std::function<void(uint32_t)>* work_ = nullptr;
  std::atomic<uint32_t> called_{0};  // counts laps; members wake when it changes
  std::atomic<uint32_t> begun_{0};   // the lap that has begun
  std::atomic<uint32_t> arrived_{0};
  std::atomic<uint32_t> done_{0};
  std::atomic<bool> stop_{false};
  std::vector<Finish> finishes_;
  std::vector<std::thread> members_;
};

}  // namespace quire::micro
