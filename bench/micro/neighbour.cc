#include "bench/micro/neighbour.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "bench/micro/attention.h"

namespace quire::micro {
namespace {

constexpr size_t kWaveRuns = 32;  // runs of pages between two barriers
constexpr int kSteps = 8;         // of one round: longer than the time slices of the system's scheduler

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

// o, m and l of `rows` rows in one array.
AttendState state_in(float* floats, uint32_t rows, uint32_t dim) {
  float* m = floats + size_t{rows} * dim;
  return {floats, m, m + rows};
}
size_t state_floats(uint32_t rows, uint32_t dim) { return size_t{rows} * (dim + 2); }

void clear(const AttendState& state, uint32_t rows, uint32_t dim) {
  std::fill_n(state.o, size_t{rows} * dim, 0.0F);
  std::fill_n(state.m, rows, -HUGE_VALF);
  std::fill_n(state.l, rows, 0.0F);
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
    : heads_(heads),
      kernels_(kernels),
      group_(group),
      pool_(threads),
      q_(make_queries(size_t{heads->kind.kv_heads} * group, heads->kind.shape.dim)),
      partials_((kWaveRuns + 1) * heads->kind.kv_heads * state_floats(group, heads->kind.shape.dim)) {
  for (uint32_t i = 0; i < pool_.threads(); ++i) {
    scratch_.emplace_back(kernels.attend_scratch_bytes(group, heads->kind.shape));
  }
  step();
}

void NeighbourMeasurement::step() {
  const uint32_t dim = heads_->kind.shape.dim;
  const size_t kv_heads = heads_->kind.kv_heads;
  const size_t pages = heads_->pages.size();
  const size_t floats = state_floats(group_, dim);
  const auto total = [&](size_t head) { return state_in(partials_.data() + head * floats, group_, dim); };
  const auto partial = [&](size_t run, size_t head) {
    return state_in(partials_.data() + ((run + 1) * kv_heads + head) * floats, group_, dim);
  };
  for (size_t head = 0; head < kv_heads; ++head) clear(total(head), group_, dim);
  for (size_t first = 0; first < pages; first += kWaveRuns * kCallPages) {
    const size_t runs = std::min(kWaveRuns, (pages - first + kCallPages - 1) / kCallPages);
    const size_t items = runs * kv_heads;
    std::atomic<size_t> next{0};
    parallel_for(pool_, pool_.threads(), [&](uint32_t lane) {
      for (size_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) {
        const size_t head = item / runs;
        const size_t run = item % runs;
        const size_t page = first + run * kCallPages;
        const size_t count = std::min(kCallPages, pages - page);
        const AttendState state = partial(run, head);
        clear(state, group_, dim);
        kernels_.attend_folded(heads_->folded(nullptr), std::span(heads_->heads[head]).subspan(page, count),
                               {q_.data() + head * group_ * dim, group_, nullptr}, state,
                               scratch_[lane].data());
      }
    });
    for (size_t item = 0; item < items; ++item) {
      kernels_.merge(total(item / runs), partial(item % runs, item / runs), group_, dim);
    }
  }
}

double NeighbourMeasurement::time_steps() {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kSteps; ++i) step();
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
  Row row = row_of("neighbour", *heads_, kernels_.isa, pool_.threads());
  row.group = group_;
  row.n_q = 1;
  row.rounds = static_cast<uint32_t>(loaded_.size());
  row.bytes = heads_->bytes();
  row.seconds = spread_of(loaded_);
  row.floor_seconds = spread_of(quiet_).median;
  std::vector<double> shares;
  for (size_t i = 0; i < quiet_.size(); ++i) shares.push_back(quiet_[i] / loaded_[i]);
  row.share = spread_of(shares);
  return row;
}

}  // namespace quire::micro
