#include "bench/real_run.h"

#include <algorithm>
#include <chrono>

#include "bench/memory.h"
#include "bench/qwen3/ops.h"
#include "bench/qwen3/reading.h"

namespace quire::bench {

std::vector<Row> RealRun::run_alone() const { return run(nullptr, false); }

Row RealRun::run_reference(Reference* reference) const { return run(reference, true).front(); }

std::vector<Row> RealRun::run_against(Reference* reference) const { return run(reference, false); }

std::vector<Row> RealRun::run(Reference* reference, bool fill) const {
  reset_peak_rss();
  const uint64_t context = task.context();
  qwen3::Cache cache = setup.open(codec);
  const std::unique_ptr<LiveView> view = watch ? watch(cache) : nullptr;
  qwen3::Session session(decoder, cache, context + 1 + std::max<uint64_t>(task.decode, kQuestionTokens));
  Row prompt;
  prompt.model = decoder.model().name;
  prompt.context = context;
  prompt.codec = codec;
  prompt.seed = options.seed;
  prompt.threads = options.threads;
  prompt.ttft_s =
      qwen3::read_text(session, std::span(task.text.tokens).first(prompt_tokens()), {{}, 0, on_progress});
  prompt.stats = cache.stats();

  std::vector<qwen3::SelectionOptions> selections{cache.options().select};
  selections.insert(selections.end(), task.also.begin(), task.also.end());
  std::vector<Row> rows;
  for (const qwen3::SelectionOptions& select : selections) {
    const quire_stats before = cache.stats();
    Row& row = rows.emplace_back(prompt);
    qwen3::Session own = session.fork(select);  // alive until what the cache holds is read
    answer(own, reference, fill, &row);
    row.stats = cache.stats();
    set_selection(cache.options().prefill, select, before, row.stats, &row);
    row.stats = without(row.stats, prompt.stats, before);
    row.peak_rss = peak_rss();
  }
  return rows;
}

// Whole chunks before the first that is scored.
uint64_t RealRun::prompt_tokens() const {
  const uint64_t chunk = options.cache.chunk_tokens;
  return (task.context() - task.scored) / chunk * chunk;
}

void RealRun::answer(qwen3::Session& session, Reference* reference, bool fill, Row* row) const {
  const uint64_t context = task.context();
  const std::vector<int32_t>& tokens = task.text.tokens;
  qwen3::Perplexity perplexity;
  qwen3::Divergence divergence;
  const auto score = [&](uint64_t index, std::span<const float> logits) {
    perplexity.add(logits, tokens[index + 1]);
    if (reference == nullptr) return;
    if (fill) reference->logits.append(logits);
    divergence.add(fill ? logits : reference->logits.row(index - (context - task.scored)), logits);
  };
  *row->ttft_s +=
      qwen3::read_rest(session, std::span(tokens).first(context), {score, task.scored, on_progress});
  row->prefill_tok_s = static_cast<double>(context) / *row->ttft_s;
  session.read(std::span(tokens).last(1), 0);
  row->ppl = perplexity.value();
  if (reference != nullptr) {
    if (fill) reference->ppl = *row->ppl;
    row->ppl_ref = reference->ppl;
    set_divergence(divergence, row);
  }
  if (task.decode > 0) decode_tokens(session.fork(), row);
  if (task.with_needles) ask_needles(session, row);
}

void RealRun::decode_tokens(qwen3::Session session, Row* row) const {
  using Clock = std::chrono::steady_clock;
  int32_t next = task.text.tokens.back();
  for (uint32_t i = 0; i < task.decode; ++i) {
    const auto start = Clock::now();
    next = qwen3::argmax(session.read({&next, 1}, 1));
    row->decode_seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
}

void RealRun::ask_needles(const qwen3::Session& session, Row* row) const {
  row->needles = static_cast<uint32_t>(task.text.needles.size());
  row->needles_found = 0;
  for (const Needle& needle : task.text.needles) {
    qwen3::Session fork = session.fork();
    if (ask(fork, decoder.model().tokenizer, needle)) ++*row->needles_found;
  }
}

}  // namespace quire::bench
