#include "bench/quality/windows.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "bench/options.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/ops.h"

namespace quire::bench {

std::vector<Window> last_windows(std::span<const int32_t> text, uint64_t tokens, uint64_t stride,
                                 uint64_t count) {
  std::vector<Window> windows;
  for (uint64_t end = text.size(); end >= tokens + 1; end -= stride) {
    windows.push_back(text.subspan(end - tokens - 1, tokens + 1));
    if (windows.size() == count || end < stride) break;
  }
  if (windows.empty()) {
    throw qwen3::Error("the text has " + std::to_string(text.size()) + " tokens, fewer than one window of " +
                       std::to_string(tokens + 1) + "; lower --window");
  }
  std::reverse(windows.begin(), windows.end());
  return windows;
}

WindowScorer::WindowScorer(qwen3::Decoder& decoder, std::vector<Window> windows, uint64_t skip,
                           std::function<void(uint64_t)> on_tokens)
    : decoder_(decoder),
      windows_(std::move(windows)),
      skip_(skip),
      on_tokens_(std::move(on_tokens)),
      reference_(temporary_folder(), decoder.model().config.vocab_size) {}

uint64_t WindowScorer::tokens() const {
  uint64_t tokens = 0;
  for (const Window window : windows_) tokens += window.size() - 1;
  return tokens;
}

WindowScore WindowScorer::run(const Open& open) {
  Totals totals;
  quire_stats stats{};
  for (const Window window : windows_) {
    qwen3::Cache cache = open();
    qwen3::Session session(decoder_, cache, window.size() - 1);  // the last token is only predicted
    read(window, session, &totals);
    stats = cache.stats();
  }
  have_reference_ = true;
  const qwen3::Divergence& divergence = totals.divergence;
  return {totals.perplexity.value(), divergence.mean(), divergence.p999(),
          divergence.same_top1(),    totals.seconds,    stats};
}

void WindowScorer::read(Window window, qwen3::Session& session, Totals* totals) {
  using Clock = std::chrono::steady_clock;
  const Window text = window.first(window.size() - 1);
  const uint64_t chunk = session.cache().options().chunk_tokens;
  for (uint64_t first = 0; first < text.size(); first += chunk) {
    const uint64_t count = std::min<uint64_t>(chunk, text.size() - first);
    const uint64_t scored_from = std::clamp(skip_, first, first + count);
    const auto start = Clock::now();
    const auto logits =
        session.read(text.subspan(first, count), static_cast<uint32_t>(first + count - scored_from));
    totals->seconds += std::chrono::duration<double>(Clock::now() - start).count();
    score(window, scored_from, logits, totals);
    on_tokens_(count);
  }
}

// Logits of tokens [first, ...) of the window.
void WindowScorer::score(Window window, uint64_t first, std::span<const float> logits, Totals* totals) {
  const size_t vocab = decoder_.model().config.vocab_size;
  const auto count = static_cast<uint32_t>(logits.size() / vocab);
  std::vector<double> likelihoods(count);
  std::vector<qwen3::TokenDivergence> divergences(count);
  std::vector<float> reference;
  if (have_reference_) {
    reference.resize(logits.size());
    reference_.read(totals->rows, reference);
  } else {
    for (size_t row = 0; row < count; ++row) reference_.append(logits.subspan(row * vocab, vocab));
  }
  decoder_.pool().parallel_for(count, [&](uint32_t row) {
    const auto of_row = logits.subspan(row * vocab, vocab);
    likelihoods[row] = qwen3::negative_log_likelihood(of_row, window[first + row + 1]);
    if (have_reference_) {
      divergences[row] = qwen3::divergence(std::span(reference).subspan(row * vocab, vocab), of_row);
    }
  });
  for (uint32_t row = 0; row < count; ++row) {
    totals->perplexity.add(likelihoods[row]);
    totals->divergence.add(divergences[row]);
  }
  totals->rows += count;
}

}  // namespace quire::bench
