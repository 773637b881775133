#include "bench/qwen3/page_notes.h"

#include <algorithm>
#include <cstring>

#include "bindings/c/quire.h"

namespace quire::qwen3 {
namespace {

constexpr uint32_t kMark = 0x31544f4e;  // "NOT1"
constexpr uint32_t kMaxPageTokens = 128;

struct Note {
  uint32_t mark;
  uint32_t before;  // tokens of the first token's product that stand before the page
  uint32_t after;   // of the last token's, behind it
  uint32_t zero;
  uint8_t ends[kMaxPageTokens / 8];      // bit j: a chunk ends after token j
  uint8_t by_token[kMaxPageTokens / 8];  // bit j: token j chose alone
  uint8_t rest[16];
};
static_assert(sizeof(Note) == QUIRE_NOTE_BYTES);

void set_bit(uint8_t* bits, uint64_t at) { bits[at / 8] = static_cast<uint8_t>(bits[at / 8] | 1U << at % 8); }
bool bit(const uint8_t* bits, uint64_t at) { return (bits[at / 8] >> at % 8 & 1U) != 0; }

Note note_of(std::span<const ReadChunk> chunks, uint64_t first, uint64_t end) {
  const auto after = [](uint64_t position, const ReadChunk& chunk) { return position < chunk.end; };
  auto chunk = std::upper_bound(chunks.begin(), chunks.end(), first, after);
  Note note{};
  note.mark = kMark;
  note.before = static_cast<uint32_t>(first - chunk->product_first);
  for (uint64_t position = first; position < end; ++position) {
    if (position >= chunk->end) ++chunk;
    if (chunk->by_token) set_bit(note.by_token, position - first);
    if (position + 1 == chunk->end) set_bit(note.ends, position - first);
  }
  note.after = static_cast<uint32_t>(chunk->product_end - end);
  return note;
}

// What a page without a note was read like.
Note plain_note(uint64_t first, uint64_t end, uint64_t chunk_tokens) {
  std::vector<ReadChunk> chunks;
  for (uint64_t at = first / chunk_tokens * chunk_tokens; at < end; at += chunk_tokens) {
    chunks.push_back({at + chunk_tokens, false, at, at + chunk_tokens});
  }
  return note_of(chunks, first, end);
}

}  // namespace

std::vector<uint8_t> notes_of(std::span<const ReadChunk> chunks, uint32_t page_tokens, uint64_t pages) {
  std::vector<uint8_t> notes(pages * QUIRE_NOTE_BYTES);
  for (uint64_t page = 0; page < pages; ++page) {
    const Note note = note_of(chunks, page * page_tokens, (page + 1) * page_tokens);
    std::memcpy(notes.data() + page * QUIRE_NOTE_BYTES, &note, sizeof note);
  }
  return notes;
}

std::vector<ReadChunk> chunks_of(std::span<const uint8_t> notes, uint32_t page_tokens, uint64_t pages,
                                 uint64_t chunk_tokens) {
  std::vector<ReadChunk> chunks;
  uint64_t product_first = 0;
  for (uint64_t page = 0; page < pages; ++page) {
    const uint64_t first = page * page_tokens;
    const uint64_t end = first + page_tokens;
    Note note;
    std::memcpy(&note, notes.data() + page * QUIRE_NOTE_BYTES, sizeof note);
    if (note.mark != kMark || note.before > first) note = plain_note(first, end, chunk_tokens);
    product_first = first - note.before;
    for (uint64_t at = 0; at < page_tokens; ++at) {
      const bool last = at + 1 == page_tokens;
      if (!last && !bit(note.ends, at)) continue;
      const uint64_t chunk_end = first + at + 1;
      const uint64_t product_end = last ? end + note.after : chunk_end;
      chunks.push_back({chunk_end, bit(note.by_token, at), product_first, product_end});
      product_first = chunk_end;
    }
  }
  return chunks;
}

}  // namespace quire::qwen3
