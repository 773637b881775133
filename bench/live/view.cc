#include "bench/live/view.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "bench/qwen3/error.h"

namespace quire::bench {
namespace {

constexpr std::chrono::milliseconds kRedraw{500};

}  // namespace

Metrics read_metrics(const qwen3::Cache& cache) {
  std::string text(size_t{32} << 10, '\0');
  uint64_t length = 0;
  quire_status status = quire_cache_prometheus(cache.handle(), text.data(), text.size(), &length);
  if (status == QUIRE_INVALID && length >= text.size()) {
    text.resize(length + 1);
    status = quire_cache_prometheus(cache.handle(), text.data(), text.size(), &length);
  }
  qwen3::check(status, cache.handle());
  text.resize(length);
  return parse_metrics(text);
}

LiveView::LiveView(const qwen3::Cache& cache, Progress& progress)
    : cache_(cache), progress_(progress), thread_([this](const std::stop_token& stop) { run(stop); }) {}

LiveView::~LiveView() {
  thread_.request_stop();
  thread_.join();
  progress_.show_above("");
}

void LiveView::run(const std::stop_token& stop) {
  try {
    draw_until(stop);
  } catch (const qwen3::Error& error) {
    progress_.show_above(std::string("no live view: ") + error.what() + '\n');
  }
}

void LiveView::draw_until(const std::stop_token& stop) {
  using Clock = std::chrono::steady_clock;
  std::mutex mutex;
  std::condition_variable_any changed;
  const qwen3::CacheOptions& options = cache_.options();
  const Budgets budgets{options.device_budget, options.host_budget, options.nvme_budget};
  Metrics before = read_metrics(cache_);
  Clock::time_point looked = Clock::now();
  std::unique_lock lock(mutex);
  while (!changed.wait_for(lock, stop, kRedraw, [] { return false; }) && !stop.stop_requested()) {
    Metrics now = read_metrics(cache_);
    const Clock::time_point time = Clock::now();
    const Interval interval{std::move(before), now, std::chrono::duration<double>(time - looked).count()};
    progress_.show_above(panel_text(interval, budgets));
    before = std::move(now);
    looked = time;
  }
}

}  // namespace quire::bench
