#include "bench/qwen3/selection.h"

#include <algorithm>

namespace quire::qwen3 {
namespace {

// Calls visit(row, first row of its chunk?, by_token) for every token of the pass.
template <typename Visit>
void for_tokens(std::span<const ReadChunk> chunks, uint64_t first, uint32_t count, const Visit& visit) {
  const auto after = [](uint64_t position, const ReadChunk& chunk) { return position < chunk.end; };
  auto chunk = std::upper_bound(chunks.begin(), chunks.end(), first, after);
  bool begins = true;
  for (uint32_t row = 0; row < count; ++row) {
    if (first + row >= chunk->end) {
      ++chunk;
      begins = true;
    }
    visit(row, begins, chunk->by_token);
    begins = false;
  }
}

AttendPart part_of(const SelectionOptions& selection, bool by_token, std::span<const ReadChunk> chunks,
                   uint64_t first, uint32_t count) {
  AttendPart part{selection, std::vector<uint8_t>(count), std::vector<uint8_t>(count)};
  for_tokens(chunks, first, count, [&](uint32_t row, bool begins, bool alone) {
    part.start[row] = begins || alone ? 1 : 0;
    part.rows[row] = alone == by_token ? 1 : 0;
  });
  if (selection.kind == QUIRE_SELECT_NONE) part.start.clear();
  return part;
}

bool has_rows(const AttendPart& part) {
  return std::any_of(part.rows.begin(), part.rows.end(), [](uint8_t row) { return row != 0; });
}

}  // namespace

void set_selection(const SelectionOptions& options, quire_attend_args* args) {
  args->selection = options.kind;
  args->select_pages = options.pages;
  args->select_share = options.share;
  args->select_mass = options.mass;
  args->select_window = options.window;
  args->select_check = options.check ? 1 : 0;
}

std::vector<AttendPart> attend_parts(const SelectionOptions& prefill, const SelectionOptions& decode,
                                     std::span<const ReadChunk> chunks, uint64_t first, uint32_t count) {
  const bool dense = prefill.kind == QUIRE_SELECT_NONE && decode.kind == QUIRE_SELECT_NONE;
  if (dense) return {AttendPart{}};
  std::vector<AttendPart> parts;
  for (const bool by_token : {false, true}) {
    AttendPart part = part_of(by_token ? decode : prefill, by_token, chunks, first, count);
    if (has_rows(part)) parts.push_back(std::move(part));
  }
  if (parts.size() == 1) parts[0].rows.clear();
  return parts;
}

}  // namespace quire::qwen3
