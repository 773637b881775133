#include "kvcache/prefix_cache.h"

#include <algorithm>
#include <string>

#include "kvcache/adopt.h"

namespace quire {
namespace {

constexpr uint64_t kStoreAlign = 4096;

uint64_t buffer_bytes(const CacheConfig& config) {
  const uint64_t bytes = std::max(block_bytes(config, 0), block_bytes(config, 1));
  return (bytes + kStoreAlign - 1) / kStoreAlign * kStoreAlign;
}

// What ends a run of blocks without being anybody's failure.
bool ends_run(const Status& status) {
  return status.code() == StatusCode::kMiss || status.code() == StatusCode::kOverBudget;
}

}  // namespace

Result<std::unique_ptr<PrefixCache>> PrefixCache::create(Cache& cache, BlockStore* store) {
  std::unique_ptr<PrefixCache> prefixes(new PrefixCache(cache, store));
  if (store == nullptr) return prefixes;
  const CacheContext& context = cache.context();
  Result<BudgetedBytes> buffer =
      BudgetedBytes::allocate(context.host_budget, Use::kStaging, buffer_bytes(context.config));
  if (!buffer.ok()) return buffer.status();
  prefixes->buffer_ = std::move(*buffer);
  return prefixes;
}

Result<uint64_t> PrefixCache::match(const PrefixChain& chain) {
  size_t blocks = 0;
  const Status status = cache_.run([&]() -> Status {
    const CacheContext& context = cache_.context();
    while (blocks < chain.blocks()) {
      const auto usable = [&](const Sequence& s) {
        return has_block(context, s, static_cast<uint32_t>(blocks), chain.scope.rope_epoch);
      };
      const LivePrefixes::Holder holder = cache_.live_prefixes().find(chain, blocks, usable);
      if (holder.sequence == nullptr) break;
      while (blocks < holder.blocks && usable(*holder.sequence)) ++blocks;
    }
    return {};
  });
  if (!status.ok()) return status;
  if (store_ != nullptr) blocks = std::max(blocks, store_->match(chain.ids));
  return uint64_t{blocks} * chain.page_tokens;
}

Status PrefixCache::hold(Sequence* sequence, const PrefixChain& chain, bool to_adopt) {
  return cache_.run([&]() -> Status {
    const CacheConfig& config = cache_.context().config;
    if (config.recent_pages > 0) {
      return {
          StatusCode::kUnsupported,
          "recent_pages is " + std::to_string(config.recent_pages) +
              ": blocks have no unfolded copy that queries could see; open the cache with 0 to reuse them"};
    }
    if (sequence->in_step)
      return invalid("blocks cannot be adopted or published while a step appends; end the step first");
    if (sequence->rope.epoch != chain.scope.rope_epoch) {
      return invalid("the prefix is of rope epoch " + std::to_string(chain.scope.rope_epoch) +
                     " and the sequence of " + std::to_string(sequence->rope.epoch));
    }
    if (to_adopt && sequence->length > 0) {
      return invalid("the sequence has " + std::to_string(sequence->length) +
                     " tokens; blocks are adopted by new ones, which have none");
    }
    if (!to_adopt && chain.tokens.size() > sequence->length) {
      return invalid("the prefix has more tokens than the sequence, " + std::to_string(sequence->length) +
                     "; publish what is there");
    }
    sequence->in_step = true;
    return {};
  });
}

Status PrefixCache::let_go(Sequence* sequence) {
  return cache_.run([&]() -> Status {
    sequence->in_step = false;
    return {};
  });
}

Result<uint64_t> PrefixCache::adopt(Sequence* sequence, PrefixChain* chain) {
  const std::scoped_lock lock(mutex_);
  if (Status status = hold(sequence, *chain, true); !status.ok()) return status;
  const Result<size_t> blocks = adopt_blocks(sequence, chain);
  const uint64_t had = blocks.ok() ? *blocks : 0;
  Status status = cache_.run([&]() -> Status {
    finish_adoption(cache_.context(), sequence, static_cast<uint32_t>(had));
    PrefixChain mine = *chain;
    mine.tokens.resize(had * chain->page_tokens);
    mine.ids.resize(had);
    mine.notes.resize(had);
    cache_.live_prefixes().enter(sequence, mine);
    return {};
  });
  if (Status held = let_go(sequence); status.ok()) status = held;
  if (!status.ok()) return status;
  if (!blocks.ok()) return blocks.status();
  counts_.asked_tokens.fetch_add(chain->tokens.size(), std::memory_order_relaxed);
  return had * chain->page_tokens;
}

Result<size_t> PrefixCache::adopt_blocks(Sequence* sequence, PrefixChain* chain) {
  size_t blocks = 0;
  size_t linked = 0;  // blocks that `before` stands behind
  StoredBlock before;
  while (blocks < chain->blocks()) {
    const Result<size_t> shared = share_blocks(sequence, chain, blocks);
    if (!shared.ok()) return shared.status();
    blocks += *shared;
    counts_.shared_tokens.fetch_add(*shared * chain->page_tokens, std::memory_order_relaxed);
    if (store_ == nullptr || blocks == chain->blocks()) break;
    for (; linked < blocks; ++linked) {
      const Result<StoredBlock> found = store_->find(*chain, linked, before);
      if (!found.ok()) return blocks;
      before = *found;
    }
    if (Status status = load_block(sequence, chain, blocks, &before); !status.ok()) {
      // A disk that fails costs time, not the request: what it does not give is computed.
      return blocks;
    }
    linked = ++blocks;
    counts_.loaded_tokens.fetch_add(chain->page_tokens, std::memory_order_relaxed);
  }
  return blocks;
}

Result<size_t> PrefixCache::share_blocks(Sequence* sequence, PrefixChain* chain, size_t block) {
  size_t next = block;
  const Status status = cache_.run([&]() -> Status {
    const CacheContext& context = cache_.context();
    const auto usable = [&](const Sequence& s) {
      return has_block(context, s, static_cast<uint32_t>(next), chain->scope.rope_epoch);
    };
    while (next < chain->blocks()) {
      const LivePrefixes::Holder holder = cache_.live_prefixes().find(*chain, next, usable);
      if (holder.sequence == nullptr) return {};
      for (; next < holder.blocks && usable(*holder.sequence); ++next) {
        Status shared = share_block(context, *holder.sequence, static_cast<uint32_t>(next), sequence);
        if (!shared.ok()) return shared;
        chain->notes[next] = holder.notes[next];
      }
    }
    return {};
  });
  if (!status.ok() && !ends_run(status)) return status;
  return next - block;
}

Status PrefixCache::load_block(Sequence* sequence, PrefixChain* chain, size_t block, StoredBlock* before) {
  const std::span<uint8_t> bytes(buffer_.data(), buffer_.size());
  const Result<StoredBlock> loaded = store_->load(chain, block, *before, bytes);
  if (!loaded.ok()) return loaded.status();
  Status status = cache_.run(
      [&] { return place_block(cache_.context(), bytes, static_cast<uint32_t>(block), sequence); });
  if (status.ok()) *before = *loaded;
  return status;
}

Result<uint64_t> PrefixCache::publish(Sequence* sequence, const PrefixChain& chain) {
  const std::scoped_lock lock(mutex_);
  if (Status status = hold(sequence, chain, false); !status.ok()) return status;
  Result<uint64_t> stored = store_ == nullptr ? Result<uint64_t>(uint64_t{0}) : store_blocks(sequence, chain);
  Status status = cache_.run([&]() -> Status {
    cache_.live_prefixes().enter(sequence, chain);
    return {};
  });
  if (Status held = let_go(sequence); status.ok()) status = held;
  if (!status.ok()) return status;
  return stored;
}

Result<uint64_t> PrefixCache::store_blocks(Sequence* sequence, const PrefixChain& chain) {
  uint64_t stored = 0;
  StoredBlock before;
  Status status;
  for (size_t block = 0; block < chain.blocks(); ++block) {
    Result<StoredBlock> found = store_->find(chain, block, before);
    if (!found.ok()) {
      found = put_block(sequence, chain, block, before);
      stored += found.ok() ? 1 : 0;
    }
    if (!found.ok()) {
      status = found.status();
      break;
    }
    before = *found;
  }
  // Found blocks may be of an earlier call whose sync failed.
  if (Status synced = store_->sync(); !synced.ok()) return synced;
  // Lost pages, or a store that is full of this very chain: the rest is not kept, which is no failure.
  if (!status.ok() && !ends_run(status)) return status;
  return stored;
}

Result<StoredBlock> PrefixCache::put_block(Sequence* sequence, const PrefixChain& chain, size_t block,
                                           const StoredBlock& before) {
  const std::span<uint8_t> bytes(buffer_.data(), buffer_.size());
  Status copied = cache_.run([&] {
    cache_.release_ahead();
    return copy_block(cache_.context(), *sequence, static_cast<uint32_t>(block), bytes);
  });
  if (!copied.ok()) return copied;
  return store_->put(chain, block, before, bytes);
}

}  // namespace quire
