// What the parts of attention share: attend.cc holds pages and cuts the work into waves, attend_tiles.cc
// computes them, attend_select.cc chooses pages, attend_carry.cc and attend_device*.cc give a device its
// part. Included by these alone. Thread safety: a Lane belongs to one thread; a Call is written between waves
// only.
#pragma once

#include <algorithm>
#include <limits>

#include "kvcache/attend.h"

namespace quire {

inline void clear_state(const AttendState& state, uint32_t rows, uint32_t dim) {
  std::fill_n(state.o, size_t{rows} * dim, 0.0F);
  std::fill_n(state.m, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(state.l, rows, 0.0F);
}

// What one thread of a wave works with.
struct Attender::Lane {
  uint8_t* scratch;     // of the kernels
  float* keys;          // [page_tokens][head_dim], pre_rope only
  float* queries;       // [kMaxTileRows][head_dim], pre_rope only
  float* angles;        // [2][head_dim / 2], pre_rope only
  int32_t* begin;       // [kMaxTileRows]
  int32_t* end;         // [kMaxTileRows]
  AttendState partial;  // [kMaxTileRows]
};

struct Attender::Call {
  Step* step;
  uint32_t layer;
  const LayerConfig& config;
  const AttendArgs& args;
  size_t next_run = 0;    // of the plan: the wave's first
  size_t held_until = 0;  // of the plan: runs before it are or were held
  size_t wave = 0;        // runs of the wave: held_[0 .. wave)
  bool queries_on_device = false;
  bool guessed = false;  // only to load ahead: nothing is attended

  const StepEntry& entry(const Tile& tile) const { return step->entries[tile.entry]; }
  const Rope& rope(const Tile& tile) const { return entry(tile).sequence->rope; }
  const PageTable& table(const Tile& tile) const { return *entry(tile).sequence->layers[layer].table; }
  const PageTable& table(const PageRun& run) const {
    return *step->entries[run.entry].sequence->layers[layer].table;
  }
  bool selective() const { return args.selection.kind != SelectionKind::kNone; }
  bool checked() const { return selective() && args.selection.check; }
};

// The tiles of one entry: [kv_heads][per_head] of the plan's, from `first` on.
struct EntryTiles {
  size_t first;
  size_t per_head;
};
EntryTiles entry_at(const std::vector<Tile>& tiles, size_t first);

// Rows stand on the device twice: first as in the plan, [kv_head][tile][row] of each entry, for launches of
// all of its tiles; behind that as [tile][kv_head][row], for launches of one. Of an entry with one tile both
// are the same. Where the rows of the entry's i-th tiles stand for themselves:
uint32_t own_row(const AttendPlan& plan, const EntryTiles& entry, size_t i, uint32_t kv_heads);

// How many tokens of the pages lie below `position`; pages: ascending, not all of them need be there.
int32_t tokens_below(std::span<const uint32_t> pages, uint64_t position, uint32_t page_tokens);

}  // namespace quire
