#include "kvcache/attend_plan.h"

#include <algorithm>

#include "kvcache/page_reader.h"

namespace quire {
namespace {

Tile make_tile(const CacheConfig& config, uint64_t window, uint64_t position) {
  Tile tile{};
  tile.position = position;
  tile.own_page = static_cast<uint32_t>(position / config.page_tokens);
  tile.fold_end = first_recent_page(config, position);
  // The window of the tile's first token reaches back furthest.
  const auto seen = static_cast<uint32_t>(first_visible(position, window) / config.page_tokens);
  tile.fold_begin = std::min(seen, tile.fold_end);
  return tile;
}

// Tiles of one entry for kv head 0; the other heads repeat them.
void cut_tiles(const CacheConfig& config, const StepEntry& entry, const AttendArgs& args,
               std::vector<Tile>* tiles) {
  const uint32_t most_tokens = std::max(1U, kMaxTileRows / config.group());
  const uint8_t* start = args.selection.kind == SelectionKind::kNone ? nullptr : args.selection.start;
  bool open = false;
  for (uint64_t i = 0; i < entry.count; ++i) {
    const auto token = static_cast<uint32_t>(entry.token_offset + i);
    const uint64_t position = entry.first + i;
    if (args.row_mask != nullptr && args.row_mask[token] == 0) {
      open = false;
      continue;
    }
    const bool starts = start != nullptr && start[token] != 0;
    if (!open || starts || position % config.page_tokens == 0 || tiles->back().tokens == most_tokens) {
      tiles->push_back(make_tile(config, args.window, position));
      tiles->back().token = token;
      open = true;
    }
    ++tiles->back().tokens;
  }
}

// The runs that cover the folded pages of the tiles from `first` on.
void cut_runs(uint32_t entry, const std::vector<Tile>& tiles, size_t first, std::vector<PageRun>* runs) {
  uint32_t begin = UINT32_MAX;
  uint32_t end = 0;
  for (size_t i = first; i < tiles.size(); ++i) {
    if (tiles[i].fold_begin == tiles[i].fold_end) continue;
    begin = std::min(begin, tiles[i].fold_begin);
    end = std::max(end, tiles[i].fold_end);
  }
  while (begin < end) {
    const uint32_t stop = std::min(end, (begin / kRunPages + 1) * kRunPages);
    runs->push_back({entry, begin, stop - begin, all_pages(stop - begin), begin == 0 ? 1U : 0U, {}});
    begin = stop;
  }
}

}  // namespace

void AttendPlan::build(const CacheConfig& config, const Step& step, const AttendArgs& args) {
  tiles.clear();
  runs.clear();
  rows = 0;
  for (uint32_t e = 0; e < step.entries.size(); ++e) {
    const size_t first = tiles.size();
    cut_tiles(config, step.entries[e], args, &tiles);
    const size_t per_head = tiles.size() - first;
    for (uint32_t head = 1; head < config.kv_heads; ++head) {
      for (size_t i = 0; i < per_head; ++i) {
        tiles.push_back(tiles[first + i]);
        tiles.back().kv_head = head;
      }
    }
    for (size_t i = first; i < tiles.size(); ++i) {
      tiles[i].entry = e;
      tiles[i].rows = tiles[i].tokens * config.group();
      tiles[i].row = rows;
      rows += tiles[i].rows;
    }
    cut_runs(e, tiles, first, &runs);
  }
}

}  // namespace quire
