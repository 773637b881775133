// One run of a model over a text with one codec pair: speed, memory, perplexity, divergence, needles.
// Thread safety: main's thread.
#pragma once

#include <functional>

#include "bench/cache_setup.h"
#include "bench/live/view.h"
#include "bench/needles.h"
#include "bench/options.h"
#include "bench/qwen3/decoder.h"
#include "bench/qwen3/score.h"
#include "bench/row.h"

namespace quire::bench {

// What every codec pair of one context length shares.
struct Task {
  NeedleText text;      // context + 1 tokens: the last one is only predicted
  uint64_t scored;      // its last tokens that count for perplexity and divergence
  uint32_t decode = 0;  // tokens to write for the speed of decoding
  bool with_needles = true;

  uint64_t context() const { return text.tokens.size() - 1; }
};

// The run with bf16 pages that the others are measured against.
struct Reference {
  qwen3::LogitsFile logits;
  double ppl = 0;
};

struct RealRun {
  const Task& task;
  const CommonOptions& options;
  const CacheSetup& setup;
  CodecPair codec;
  qwen3::Decoder& decoder;
  std::function<void(uint64_t tokens)> on_progress;  // tokens read so far
  WatchCache watch;                                  // empty, or called once the cache is open

  // Measures against nothing.
  Row run_alone() const;
  // Measures; fills *reference from this run.
  Row run_reference(Reference* reference) const;
  // Measures against *reference.
  Row run_against(Reference* reference) const;

 private:
  // reference may be null.
  Row run(Reference* reference, bool fill) const;
  void decode_tokens(qwen3::Session session, Row* row) const;
  void ask_needles(const qwen3::Session& session, Row* row) const;
};

}  // namespace quire::bench
