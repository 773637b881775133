// Blocks in and out of sequences: pages shared with another sequence, placed from a block's bytes, copied
// out.
//
// A sequence that adopts has its first `block` blocks and nothing else: tables of that many pages in every
// layer, no frames. Every function leaves it so, with one block more or, on failure, with none. Thread
// safety: the cache's compute stream.
#pragma once

#include <cstdint>
#include <span>

#include "kvcache/sequence.h"

namespace quire {

// Whether all pages of the block are there, as far as is known, and of this rope epoch.
bool has_block(const CacheContext& context, const Sequence& sequence, uint32_t block, uint32_t rope_epoch);

// to gets block `block` of from, which has_block.
Status share_block(const CacheContext& context, const Sequence& from, uint32_t block, Sequence* to);

// to gets the block whose pages lie back to back in `bytes`, layer 0 first. kMiss when a page is not of this
// cache's making (codecs, geometry, layer params, rope epoch) or a section does not match its checksum.
Status place_block(const CacheContext& context, std::span<const uint8_t> bytes, uint32_t block, Sequence* to);

// The block's pages, back to back. kMiss when one is lost or of another rope epoch than the sequence.
Status copy_block(const CacheContext& context, const Sequence& from, uint32_t block,
                  std::span<uint8_t> bytes);

// The sequence now has its blocks' tokens: the next ones go behind them.
void finish_adoption(const CacheContext& context, Sequence* sequence, uint32_t blocks);

}  // namespace quire
