#include "bench/micro/neighbour.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>

namespace quire::micro {
namespace {

constexpr int kSteps = 8;  // of one round: longer than the time slices of the system's scheduler

// The last core that this process may use.
int last_core() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  int last = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) last = core;
  }
  return last;
}

}  // namespace

BusyLoop::BusyLoop() : thread_([this] { run(); }) {
  cpu_set_t core;
  CPU_ZERO(&core);
  CPU_SET(last_core(), &core);
  (void)pthread_setaffinity_np(thread_.native_handle(), sizeof core, &core);  // else it takes any core
}

BusyLoop::~BusyLoop() {
  state_ = kQuit;
  state_.notify_all();
  thread_.join();
}

void BusyLoop::start() {
  state_ = kBusy;
  state_.notify_all();
}

void BusyLoop::stop() { state_ = kIdle; }

void BusyLoop::run() {
  for (;;) {
    state_.wait(kIdle);
    if (state_ == kQuit) return;
    while (state_ == kBusy) {
    }
  }
}

NeighbourMeasurement::NeighbourMeasurement(const SharedHeads& heads, const Kernels& kernels, uint32_t group,
                                           uint32_t threads)
    : attention_(heads, kernels, group, 1, threads), row_(row_of("neighbour", *heads, kernels.isa, threads)) {
  row_.group = group;
  row_.n_q = 1;
  row_.bytes = heads->bytes();
  row_.error = error_of(*heads, kernels);
  attention_.run();
}

double NeighbourMeasurement::time_steps() {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kSteps; ++i) attention_.run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kSteps;
}

double NeighbourMeasurement::round() {
  quiet_.push_back(time_steps());
  neighbour_.start();
  loaded_.push_back(time_steps());
  neighbour_.stop();
  return loaded_.back();
}

Row NeighbourMeasurement::row() const {
  Row row = row_;
  row.rounds = static_cast<uint32_t>(loaded_.size());
  row.seconds = spread_of(loaded_);
  row.floor_seconds = spread_of(quiet_).median;
  std::vector<double> shares;
  for (size_t i = 0; i < quiet_.size(); ++i) shares.push_back(quiet_[i] / loaded_[i]);
  row.share = spread_of(shares);
  return row;
}

}  // namespace quire::micro
