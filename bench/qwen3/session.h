// One text being read and written by a model through a Quire cache.
//
// Tokens come in chunks, and the boundaries are recorded: when pages of the cache are lost, their keys and
// values are computed again from the tokens in products of the recorded shapes, so that the bits are the
// same, and handed back. A reader of the logits never sees that it happened.
// Invariant: the cache holds exactly the session's tokens. Thread safety: one thread for a session and its
// forks.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bench/qwen3/cache.h"
#include "bench/qwen3/decoder.h"
#include "bench/qwen3/token_log.h"

namespace quire::qwen3 {

// Who may see what is published.
struct PrefixOwner {
  std::array<uint64_t, 2> tenant{};  // a secret; zero: shared among all who have none
};

class Session {
 public:
  // `longest`: the number of tokens there will ever be (dynamic rope scaling depends on it). Throws Error
  // when the model has not so many positions, or the decoder computes on another device than the cache.
  // Decoder and cache must outlive the session.
  Session(Decoder& decoder, Cache& cache, uint64_t longest);

  // A session with the same tokens; the cache shares their pages.
  Session fork() const;
  // The same, whose tokens that are written or scored from here on choose as `select` says instead of as the
  // cache's options do. Throws Error when some were read already: a replay would not know how.
  Session fork(const SelectionOptions& select) const;

  uint64_t length() const { return tokens_.size(); }  // in tokens
  const Model& model() const { return decoder_->model(); }
  const Cache& cache() const { return *cache_; }

  // Reads one chunk of 1 to chunk_tokens tokens; a single token and chunks whose logits are wanted attend as
  // decoding does (selection.h). Returns the logits of its last `logit_rows` tokens,
  // [logit_rows][vocab], valid until the decoder's next pass. After an Error the tokens are as before.
  std::span<const float> read(std::span<const int32_t> chunk, uint32_t logit_rows,
                              Observer* observer = nullptr);

  // The same for a part of a longer chunk, [first, end) of the text, whose other tokens were not read here:
  // the bits are those of the whole chunk. What it computed is then asked for by logits() or sample(), which
  // leaves logits where they were computed.
  void read_part(std::span<const int32_t> part, uint64_t chunk_first, uint64_t chunk_end, uint32_t logit_rows,
                 Observer* observer = nullptr);
  std::span<const float> logits() { return decoder_->logits(); }
  // The token after the last one read, whose logits must have been wanted.
  int32_t sample(Sampler& sampler) { return decoder_->sample(sampler); }

  // Takes over what the cache knows of the text's first tokens, but not its last token, whose logits somebody
  // will want; the session must be empty. Returns how many tokens it has now.
  uint64_t adopt(std::span<const int32_t> text, const PrefixOwner& owner);
  // Makes the session's whole pages known. Returns how many blocks the cache's store did not have.
  uint64_t publish(const PrefixOwner& owner) const;

  // Tokens whose keys and values were computed again, summed over layers.
  uint64_t recomputed_tokens() const { return recomputed_; }

 private:
  class StepAttention;
  class ReplayAttention;
  class Step;

  // Keys and values of one layer for tokens from position `first` on.
  struct OwnRows {
    uint64_t first;
    TokenRows keys;
    TokenRows values;
  };
  // The same, dense and owned.
  struct KeysValues {
    std::vector<float> keys;
    std::vector<float> values;
    void add(Compute& compute, TokenRows key_rows, TokenRows value_rows, uint32_t width);
  };
  struct FreeSequence {
    void operator()(quire_sequence* sequence) const;
  };
  using Sequence = std::unique_ptr<quire_sequence, FreeSequence>;

  // Another sequence with the same tokens.
  Session(const Session& other, Sequence sequence);

  quire_prefix prefix_of(std::span<const int32_t> tokens, const PrefixOwner& owner) const;
  // A pass over the cache's rotation is one without rope.
  const Rope* decoder_rope() const;
  std::vector<ProductRows> recorded_products(uint64_t first, uint64_t count) const;
  void attend(const Step& step, uint32_t layer, TokenRows queries, std::span<float> out, const OwnRows* own);
  void attend_part(const Step& step, const AttendPart& part, uint32_t layer, TokenRows queries,
                   std::span<float> out, const OwnRows* own);
  void recover(const quire_miss& miss, const OwnRows* own);
  void recover_batch(uint32_t layer, uint64_t first, uint64_t end, const OwnRows* own);
  KeysValues recompute(uint32_t layer, uint64_t first, uint64_t count);

  Decoder* decoder_;
  Cache* cache_;
  Rope rope_;
  uint64_t longest_;
  SelectionOptions select_;
  Sequence sequence_;
  TokenLog tokens_;
  std::vector<ReadChunk> chunks_;  // as they were read
  uint64_t replay_tokens_;         // of one recovery: whole pages
  uint64_t recomputed_ = 0;
};

}  // namespace quire::qwen3
