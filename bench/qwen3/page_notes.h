// How the tokens of a page were read, as the bytes that the cache keeps with its block.
//
// Pages that are adopted and then lost are computed again; for that to give the same bits their chunks must
// be known. A note holds, for one page: where chunks end in it, which were read token by token, and how far
// the products of its first and last token reach beyond it. Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/selection.h"

namespace quire::qwen3 {

// [pages][QUIRE_NOTE_BYTES] for the first pages of a text, which the chunks cover.
std::vector<uint8_t> notes_of(std::span<const ReadChunk> chunks, uint32_t page_tokens, uint64_t pages);

// The chunks that the notes of the first pages of a text tell of. Pages with no note of this kind count as
// read in chunks of chunk_tokens.
std::vector<ReadChunk> chunks_of(std::span<const uint8_t> notes, uint32_t page_tokens, uint64_t pages,
                                 uint64_t chunk_tokens);

}  // namespace quire::qwen3
