#include "bench/qwen3/reading.h"

#include <algorithm>
#include <chrono>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {

namespace {

// Reads text[first..]; the session's newest `first` tokens are those before it.
double read_from(Session& session, std::span<const int32_t> text, uint64_t first, const ReadingHooks& hooks) {
  using Clock = std::chrono::steady_clock;
  const uint64_t chunk_tokens = session.cache().options().chunk_tokens;
  const uint64_t logits_from = text.size() - std::min<uint64_t>(text.size(), hooks.logit_tokens);
  std::chrono::duration<double> spent{0};
  const uint64_t base = session.length() - first;
  for (uint64_t end = 0; first < text.size(); first = end) {
    const uint64_t chunk_first = first / chunk_tokens * chunk_tokens;
    end = std::min<uint64_t>(text.size(), chunk_first + chunk_tokens);
    const uint64_t wanted = end - std::clamp(logits_from, first, end);
    const auto start = Clock::now();
    session.read_part(text.subspan(first, end - first), base + chunk_first, base + end,
                      static_cast<uint32_t>(wanted));
    const uint64_t rows = hooks.on_logits ? wanted : 0;
    const auto logits = rows == 0 ? std::span<const float>() : session.logits();
    spent += Clock::now() - start;
    const size_t vocab = rows == 0 ? 0 : logits.size() / rows;
    for (uint64_t row = 0; row < rows; ++row) {
      hooks.on_logits(end - wanted + row, logits.subspan(row * vocab, vocab));
    }
    if (hooks.on_progress) hooks.on_progress(end);
  }
  return spent.count();
}

}  // namespace

double read_text(Session& session, std::span<const int32_t> text, const ReadingHooks& hooks) {
  return read_from(session, text, 0, hooks);
}

double read_rest(Session& session, std::span<const int32_t> text, const ReadingHooks& hooks) {
  return read_from(session, text, session.length(), hooks);
}

std::vector<int32_t> generate(Session& session, std::span<const int32_t> prompt, Sampler& sampler,
                              uint64_t limit, const std::function<bool(int32_t)>& on_token,
                              uint64_t adopted) {
  if (prompt.empty()) throw Error("the prompt is empty; give at least one token to write on from");
  const std::vector<int32_t>& ends = session.model().config.eos_tokens;
  read_from(session, prompt, adopted, {{}, 1, {}});
  int32_t next = session.sample(sampler);
  std::vector<int32_t> written;
  while (written.size() < limit && std::find(ends.begin(), ends.end(), next) == ends.end()) {
    written.push_back(next);
    if (on_token && !on_token(next)) break;
    if (written.size() == limit) break;  // nobody needs the logits after the last token
    const uint64_t position = session.length();
    session.read_part({&next, 1}, position, position + 1, 1);
    next = session.sample(sampler);
  }
  return written;
}

}  // namespace quire::qwen3
