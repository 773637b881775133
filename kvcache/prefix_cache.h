// Prefix reuse: gives a new sequence the longest run of blocks that is known already, and makes a sequence's
// blocks known.
//
// Blocks come from live sequences, whose pages are shared, or from a store, whose pages are read, proven and
// copied into memory like pages that were just sealed. Both are optional; both compare scope and tokens on a
// hit. What cannot be had ends the run: its tokens, and all behind them, are for the engine to compute.
// Thread safety: any thread; adopt and publish run one at a time, and compute goes on between their blocks.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>

#include "kvcache/block_store.h"
#include "kvcache/cache.h"

namespace quire {

struct PrefixCounts {
  std::atomic<uint64_t> shared_tokens{0};  // adopted from live sequences
  std::atomic<uint64_t> loaded_tokens{0};  // adopted from the store
  std::atomic<uint64_t> asked_tokens{0};   // of all adopt calls
};

class PrefixCache {
 public:
  // Everything passed outlives this. store may be null. Takes room for one block from the host budget when
  // there is a store.
  static Result<std::unique_ptr<PrefixCache>> create(Cache& cache, BlockStore* store);

  // Tokens that adopt would give at this moment, if nothing fails to prove right.
  Result<uint64_t> match(const PrefixChain& chain);
  // Fills an empty sequence from its first token on; returns how many tokens it has now. The chain gets the
  // notes of these blocks.
  Result<uint64_t> adopt(Sequence* sequence, PrefixChain* chain);
  // The chain's tokens are the sequence's first ones. Returns how many blocks the store took that it did not
  // have. When the store fails, the blocks before are there and the rest is as if not asked for.
  Result<uint64_t> publish(Sequence* sequence, const PrefixChain& chain);

  const PrefixCounts& counts() const { return counts_; }
  const BlockStore* store() const { return store_; }

 private:
  PrefixCache(Cache& cache, BlockStore* store) : cache_(cache), store_(store) {}
  // Marks the sequence as in use, so that nobody frees or changes it meanwhile.
  Status hold(Sequence* sequence, const PrefixChain& chain, bool to_adopt);
  Status let_go(Sequence* sequence);
  Result<size_t> adopt_blocks(Sequence* sequence, PrefixChain* chain);
  Result<size_t> share_blocks(Sequence* sequence, PrefixChain* chain, size_t block);
  Status load_block(Sequence* sequence, PrefixChain* chain, size_t block, StoredBlock* before);
  Result<uint64_t> store_blocks(Sequence* sequence, const PrefixChain& chain);
  Result<StoredBlock> put_block(Sequence* sequence, const PrefixChain& chain, size_t block,
                                const StoredBlock& before);

  Cache& cache_;
  BlockStore* store_;
  std::mutex mutex_;      // guards the store, except match and stats, and buffer_
  BudgetedBytes buffer_;  // one block
  PrefixCounts counts_;
};

}  // namespace quire
