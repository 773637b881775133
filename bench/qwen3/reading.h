// Reading a long text chunk by chunk, and writing on from it.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "bench/qwen3/sampler.h"
#include "bench/qwen3/session.h"

namespace quire::qwen3 {

struct ReadingHooks {
  // Logits of one token, by its index in the text that is read; for the last `logit_tokens` tokens.
  std::function<void(uint64_t index, std::span<const float> logits)> on_logits;
  uint64_t logit_tokens = 0;
  // After every chunk: the tokens read so far.
  std::function<void(uint64_t tokens)> on_progress;
};

// Reads `text` in chunks of the cache's chunk_tokens. Returns the seconds spent, hooks not counted.
double read_text(Session& session, std::span<const int32_t> text, const ReadingHooks& hooks);

// The same when the session has the text's first tokens already (Session::adopt): reads the others as parts
// of the same chunks.
double read_rest(Session& session, std::span<const int32_t> text, const ReadingHooks& hooks);

// Writes up to `limit` tokens after `prompt`, which must not be empty and is read first; stops after an
// end-of-text token of the model or when on_token returns false. on_token may be empty. adopted: of the
// prompt's first tokens, those that the session has already. Returns the tokens.
std::vector<int32_t> generate(Session& session, std::span<const int32_t> prompt, Sampler& sampler,
                              uint64_t limit, const std::function<bool(int32_t)>& on_token,
                              uint64_t adopted = 0);

}  // namespace quire::qwen3
