// Blocks made up for tests of stores: every byte follows from the tokens, so that what comes back can be
// compared with the truth instead of with a copy. Thread safety: pure functions and values.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "offload/persistent_store.h"
#include "offload/tier.h"

namespace quire::testing {

inline constexpr uint32_t kMadePageTokens = 32;

inline PersistentStoreOptions made_options(uint64_t slots, uint64_t layout = 5) {
  PersistentStoreOptions options;
  options.pages = {std::vector<uint32_t>{4096, 1088, 192}, std::vector<uint32_t>{4032, 1024, 128}};
  options.shape = {layout, kMadePageTokens, 3, 4096, 8192};
  options.budget = options.shape.bytes_for(slots);
  options.new_file = {77, layout};
  return options;
}

// A chain of `blocks` blocks; those of one family have their first `common` blocks in common.
inline PrefixChain made_chain(uint64_t family, uint64_t member, size_t blocks, size_t common = 2,
                              uint64_t tenant = 9, uint64_t layout = 5) {
  const PrefixScope scope{{1, 2}, {tenant, 0}, 0, 0, layout};
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < blocks * kMadePageTokens; ++i) {
    const uint64_t branch = i / kMadePageTokens < common ? 0 : member + 1;
    tokens.push_back(static_cast<int32_t>(family * 1000003 + branch * 10007 + i));
  }
  PrefixChain chain = make_chain(scope, kMadePageTokens, tokens);
  for (size_t i = 0; i < blocks; ++i) chain.notes[i].fill(static_cast<uint8_t>(chain.ids[i].high));
  return chain;
}

// A buffer for one block, aligned as stores want it.
class BlockBuffer {
 public:
  BlockBuffer() : bytes_(BudgetedBytes::allocate(budget_, Use::kWork, 8192)) {}
  std::span<uint8_t> span() { return {bytes_->data(), bytes_->size()}; }

 private:
  Budget budget_{1 << 20};
  Result<BudgetedBytes> bytes_;
};

inline uint64_t made_bytes(size_t block) { return block == 0 ? 4096 + 1088 + 192 : 4032 + 1024 + 128; }

// The truth.
inline void make_block(const PrefixChain& chain, size_t block, std::span<uint8_t> bytes) {
  uint64_t state = chain.ids[block].low ^ chain.ids[block].high;
  for (size_t i = 0; i < made_bytes(block); ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    bytes[i] = static_cast<uint8_t>(state >> 56);
  }
}

inline bool is_block(const PrefixChain& chain, size_t block, std::span<const uint8_t> bytes) {
  BlockBuffer truth;
  make_block(chain, block, truth.span());
  return std::ranges::equal(bytes.first(made_bytes(block)), truth.span().first(made_bytes(block)));
}

// Puts what is not there; returns how many blocks of the chain are there then.
inline size_t put_chain(PersistentStore& store, const PrefixChain& chain, BlockBuffer& buffer) {
  StoredBlock before;
  for (size_t block = 0; block < chain.blocks(); ++block) {
    Result<StoredBlock> at = store.find(chain, block, before);
    if (!at.ok()) {
      make_block(chain, block, buffer.span());
      at = store.put(chain, block, before, buffer.span());
    }
    if (!at.ok()) return block;
    before = *at;
  }
  return chain.blocks();
}

// How many blocks load; *wrong counts those that are not the truth.
inline size_t load_chain(PersistentStore& store, const PrefixChain& chain, BlockBuffer& buffer,
                         uint64_t* wrong) {
  StoredBlock before;
  PrefixChain loaded = chain;
  for (size_t block = 0; block < chain.blocks(); ++block) {
    loaded.notes[block] = {};
    const Result<StoredBlock> at = store.load(&loaded, block, before, buffer.span());
    if (!at.ok()) return block;
    if (!is_block(chain, block, buffer.span()) || loaded.notes[block] != chain.notes[block]) ++*wrong;
    before = *at;
  }
  return chain.blocks();
}

}  // namespace quire::testing
