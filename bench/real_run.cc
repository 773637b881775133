#include "bench/real_run.h"

#include <algorithm>
#include <chrono>

#include "bench/memory.h"
#include "bench/qwen3/ops.h"
#include "bench/qwen3/reading.h"

namespace quire::bench {

Row RealRun::run_alone() const { return run(nullptr, false); }

Row RealRun::run_reference(Reference* reference) const { return run(reference, true); }

Row RealRun::run_against(Reference* reference) const { return run(reference, false); }

Row RealRun::run(Reference* reference, bool fill) const {
  reset_peak_rss();
  const uint64_t context = task.context();
  const std::vector<int32_t>& tokens = task.text.tokens;
  qwen3::Cache cache = setup.open(codec);
  const std::unique_ptr<LiveView> view = watch ? watch(cache) : nullptr;
  qwen3::Session session(decoder, cache, context + 1 + std::max<uint64_t>(task.decode, kQuestionTokens));

  qwen3::Perplexity perplexity;
  qwen3::Divergence divergence;
  quire_stats before_scored{};
  const auto score = [&](uint64_t index, std::span<const float> logits) {
    perplexity.add(logits, tokens[index + 1]);
    if (reference == nullptr) return;
    if (fill) reference->logits.append(logits);
    divergence.add(fill ? logits : reference->logits.row(index - (context - task.scored)), logits);
  };
  const double seconds =
      qwen3::read_text(session, std::span(tokens).first(context), {score, task.scored, [&](uint64_t read) {
                                                                     if (read + task.scored <= context)
                                                                       before_scored = cache.stats();
                                                                     on_progress(read);
                                                                   }});
  session.read(std::span(tokens).last(1), 0);

  Row row;
  row.model = decoder.model().name;
  row.context = context;
  row.codec = codec;
  row.seed = options.seed;
  row.threads = options.threads;
  row.prefill_tok_s = static_cast<double>(context) / seconds;
  row.ttft_s = seconds;
  row.ppl = perplexity.value();
  if (reference != nullptr) {
    if (fill) reference->ppl = *row.ppl;
    row.ppl_ref = reference->ppl;
    set_divergence(divergence, &row);
  }
  if (task.decode > 0) decode_tokens(session.fork(), &row);
  if (task.with_needles) ask_needles(session, &row);
  row.stats = cache.stats();
  set_selection(cache.options(), before_scored, row.stats, &row);
  row.peak_rss = peak_rss();
  return row;
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
