// The names of blocks: what a block was computed from, and the chained hash over it.
//
// A block is the pages of the same page_tokens tokens in all layers. Its keys and values follow from the
// model, the adapter, the rope and every token up to its end, so its id is a hash of the block before it and
// of its own tokens; before the first stands a hash of the scope. Every field goes into the hash behind a tag
// and its length. The hash is XXH3-128: good for finding, not against forgers, so who finds a block compares
// scope and tokens as well (a hit is never a matter of hashes). offload/STORE.md is normative. Thread safety:
// pure functions and values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/config.h"

namespace quire {

inline constexpr size_t kNoteBytes = 64;
using BlockNote = std::array<uint8_t, kNoteBytes>;  // the engine's own bytes, kept with a block

struct BlockId {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const BlockId&) const = default;
};

// Whose blocks, and computed with what. Blocks of different scopes never meet.
struct PrefixScope {
  std::array<uint64_t, 2> model{};   // fingerprint of weights and rope
  std::array<uint64_t, 2> tenant{};  // salt: without it nobody finds a block
  uint64_t adapter = 0;
  uint32_t rope_epoch = 0;
  uint64_t layout = 0;  // layout_hash of the cache
  bool operator==(const PrefixScope&) const = default;
};

// Identifies how pages are folded: geometry, page size, sinks, key space, codecs and layer params.
uint64_t layout_hash(const CacheConfig& config);

// What stands before the first block.
BlockId scope_id(const PrefixScope& scope);
BlockId next_id(const BlockId& before, std::span<const int32_t> tokens);

// The whole blocks of a list of tokens.
struct PrefixChain {
  PrefixScope scope;
  uint32_t page_tokens = 0;
  std::vector<int32_t> tokens;   // [blocks * page_tokens]
  std::vector<BlockId> ids;      // [blocks]
  std::vector<BlockNote> notes;  // [blocks]; in no hash

  size_t blocks() const { return ids.size(); }
  std::span<const int32_t> block_tokens(size_t block) const {
    return std::span(tokens).subspan(block * page_tokens, page_tokens);
  }
};

// Leaves out the tokens behind the last whole block. The notes are zero.
PrefixChain make_chain(const PrefixScope& scope, uint32_t page_tokens, std::span<const int32_t> tokens);

// Bytes of a block's pages, by layer; they lie back to back, layer 0 first. Only block 0 has sinks: all
// others are as block 1.
std::vector<uint32_t> block_pages(const CacheConfig& config, size_t block);
uint64_t block_bytes(const CacheConfig& config, size_t block);

}  // namespace quire
