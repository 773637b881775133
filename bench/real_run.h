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
  std::vector<qwen3::SelectionOptions> also{};  // further choices of what is scored and written

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

  // Rows, of the options' choice of pages first and then of each that the task adds, after one reading of the
  // prompt. Measures against nothing.
  std::vector<Row> run_alone() const;
  // Measures; fills *reference from this run, which has one row.
  Row run_reference(Reference* reference) const;
  // Measures against *reference.
  std::vector<Row> run_against(Reference* reference) const;

 private:
  // reference may be null.
  std::vector<Row> run(Reference* reference, bool fill) const;
  uint64_t prompt_tokens() const;
  // Reads what is scored, writes and answers; the session has read the prompt, and `row` has its time.
  void answer(qwen3::Session& session, Reference* reference, bool fill, Row* row) const;
  void decode_tokens(qwen3::Session session, Row* row) const;
  void ask_needles(const qwen3::Session& session, Row* row) const;
};

}  // namespace quire::bench
