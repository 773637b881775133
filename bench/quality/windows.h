// How far a cache moves a model: perplexity and divergence over windows of a text, each read into an empty
// cache. Thread safety: main's thread; rows are scored on the decoder's pool.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "bench/qwen3/decoder.h"
#include "bench/qwen3/score.h"
#include "bench/qwen3/session.h"

namespace quire::bench {

using Window = std::span<const int32_t>;

// Windows of `tokens` + 1 tokens (the last is only predicted), in order, `stride` apart; the last one ends
// with the text. `count` of them, 0: as many as there are. Throws Error when there is not one.
std::vector<Window> last_windows(std::span<const int32_t> text, uint64_t tokens, uint64_t stride,
                                 uint64_t count);

struct WindowScore {
  double ppl;
  double kld_mean;  // divergence from the reference, nats
  double kld_p999;
  double same_top1;
  double seconds;     // reading alone
  quire_stats stats;  // of the last window's cache
};

class WindowScorer {
 public:
  // Opens an empty cache.
  using Open = std::function<qwen3::Cache()>;

  // skip: tokens of a window that are read but not counted, fewer than a window has. on_tokens is told how
  // many more were read. The decoder and the windows' text must outlive the scorer.
  WindowScorer(qwen3::Decoder& decoder, std::vector<Window> windows, uint64_t skip,
               std::function<void(uint64_t)> on_tokens);

  // The first run is the reference of all others.
  WindowScore run(const Open& open);

  const std::vector<Window>& windows() const { return windows_; }
  uint64_t tokens() const;  // that one run reads

 private:
  struct Totals {
    qwen3::Perplexity perplexity;
    qwen3::Divergence divergence;
    double seconds = 0;
    uint64_t rows = 0;
  };

  void read(Window window, qwen3::Session& session, Totals* totals);
  void score(Window window, uint64_t first, std::span<const float> logits, Totals* totals);

  qwen3::Decoder& decoder_;
  std::vector<Window> windows_;
  uint64_t skip_;
  std::function<void(uint64_t)> on_tokens_;
  qwen3::LogitsFile reference_;
  bool have_reference_ = false;
};

}  // namespace quire::bench
