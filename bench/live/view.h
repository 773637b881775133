// A live view of a cache on a terminal, drawn again and again by a thread of its own until the view is gone.
// Thread safety: main's thread makes and destroys it; the cache may be used meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "bench/live/panel.h"
#include "bench/progress.h"
#include "bench/qwen3/cache.h"

namespace quire::bench {

// The cache's numbers now. Throws qwen3::Error.
Metrics read_metrics(const qwen3::Cache& cache);

class LiveView {
 public:
  // Draws on stderr, with the progress below the panel. Both must outlive the view.
  LiveView(const qwen3::Cache& cache, Progress& progress);
  LiveView(const LiveView&) = delete;
  LiveView& operator=(const LiveView&) = delete;
  ~LiveView();

 private:
  void run(const std::stop_token& stop);
  void draw_until(const std::stop_token& stop);

  const qwen3::Cache& cache_;
  Progress& progress_;
  std::jthread thread_;
};

// Makes the view of a cache that was opened, or none.
using WatchCache = std::function<std::unique_ptr<LiveView>(const qwen3::Cache& cache)>;

}  // namespace quire::bench
