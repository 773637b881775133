// A run without a model: generated keys and values of a given geometry are appended, then tokens decoded.
// Speed and memory are real, quality is not measured.
// Thread safety: main's thread.
#pragma once

#include <functional>
#include <string>

#include "bench/live/view.h"
#include "bench/options.h"
#include "bench/qwen3/thread_pool.h"
#include "bench/row.h"

namespace quire::bench {

// The geometry of a published model by its name ("qwen3-8b"); throws qwen3::Error with the names there are.
qwen3::CacheGeometry find_shape(const std::string& name);

struct SyntheticRun {
  std::string shape;
  uint64_t context;
  uint32_t decode;
  CommonOptions options;  // its cache holds the codecs
  qwen3::ThreadPool& pool;
  std::function<void(uint64_t tokens)> on_progress;
  WatchCache watch;                           // empty, or called once the cache is open
  std::vector<qwen3::SelectionOptions> also;  // further choices of pages

  // A row of decoding over every page and, for every selection that is asked for, one over selected pages.
  std::vector<Row> run() const;
};

}  // namespace quire::bench
