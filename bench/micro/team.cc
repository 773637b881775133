#include "bench/micro/team.h"

#include <algorithm>
#include <ctime>

namespace quire::micro {
namespace {

double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The one waited for may need this core.
template <class Done>
void wait_for(Done done) {
  for (uint32_t i = 1; !done(); ++i) {
    if (i % 256 == 0) std::this_thread::yield();
  }
}

}  // namespace

Team::Team(uint32_t threads) : finishes_(threads) {
  for (uint32_t i = 1; i < threads; ++i) members_.emplace_back([this, i] { serve(i); });
}

Team::~Team() {
  stop_ = true;
  ++called_;
  called_.notify_all();
  for (std::thread& member : members_) member.join();
}

Lap Team::run(const std::function<void(uint32_t)>& work) {
  work_ = &work;
  arrived_ = 0;
  done_ = 0;
  const uint32_t lap = ++called_;
  called_.notify_all();
  wait_for([this] { return arrived_ == members_.size(); });
  const double start = seconds_of(CLOCK_MONOTONIC);
  begun_ = lap;
  work_and_time(0);
  wait_for([this] { return done_ == members_.size(); });
  Lap slowest{0, 0};
  for (const Finish& finish : finishes_) {
    slowest.wall = std::max(slowest.wall, finish.at - start);
    slowest.cpu = std::max(slowest.cpu, finish.cpu);
  }
  return slowest;
}

void Team::serve(uint32_t thread) {
  for (uint32_t lap = 1;; ++lap) {
    called_.wait(lap - 1);
    if (stop_) return;
    ++arrived_;
    wait_for([this, lap] { return begun_ == lap; });
    work_and_time(thread);
    ++done_;
  }
}

void Team::work_and_time(uint32_t thread) {
  const double cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
  (*work_)(thread);
  finishes_[thread] = {seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu};
}

}  // namespace quire::micro
