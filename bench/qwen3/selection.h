// Which queries of a pass choose pages, and which of them together: what a session asks of the cache.
//
// A text is read in two ways. Prefill reads it chunk by chunk, and neighbouring tokens of a page choose
// together; what is written, or scored, chooses token by token, as decoding does. A pass that replays tokens
// repeats how each was read, so that it computes the same bits. Thread safety: plain data.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bindings/c/quire.h"

namespace quire::qwen3 {

// quire_attend_args has the meanings.
struct SelectionOptions {
  quire_selection kind = QUIRE_SELECT_NONE;
  uint32_t pages = 0;
  float mass = 0;
  uint64_t window = 256;  // tokens
  bool check = false;
  float share = 0;  // of all pages

  bool operator==(const SelectionOptions&) const = default;
};

// What the cache is told of it.
void set_selection(const SelectionOptions& options, quire_attend_args* args);

// One chunk as it was read: it ends before position `end`.
struct ReadChunk {
  uint64_t end;
  bool by_token;  // its tokens choose one by one
  // The positions of the rows of its products: the chunk's own, or more when it is a part of a longer one.
  uint64_t product_first;
  uint64_t product_end;
};

// Rows of a pass that are attended in one call.
struct AttendPart {
  SelectionOptions selection;
  std::vector<uint8_t> start;  // [n]: where tokens begin that choose together; empty without selection
  std::vector<uint8_t> rows;   // [n]: nonzero belongs to the part; empty: all
};

// The parts of a pass over `count` tokens from `first` on, which the chunks cover.
std::vector<AttendPart> attend_parts(const SelectionOptions& prefill, const SelectionOptions& decode,
                                     std::span<const ReadChunk> chunks, uint64_t first, uint32_t count);

}  // namespace quire::qwen3
