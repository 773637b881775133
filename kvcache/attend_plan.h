// How one attend call is cut into work: tiles of query rows, and runs of folded pages they see.
//
// Cutting depends on positions alone, so that results do too. Pure functions. Thread safety: none needed.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kvcache/config.h"
#include "kvcache/heads.h"
#include "kvcache/select.h"
#include "kvcache/step.h"

namespace quire {

struct AttendArgs {
  float softmax_scale;
  TensorView queries;       // [n][query_heads][head_dim]
  MutableTensorView out;    // [n][query_heads][head_dim]
  uint64_t window;          // 0: all
  float* lse;               // [n][query_heads] or nullptr
  const uint8_t* row_mask;  // [n] or nullptr
  Selection selection{};
};

// Query tokens that stand in one page, for one kv head: they see the same folded pages. Row = token * group +
// query head.
struct Tile {
  uint32_t entry;  // index into the step's entries
  uint32_t kv_head;
  uint32_t token;  // first token in the step's tensors
  uint32_t tokens;
  uint64_t position;  // of the first token
  uint32_t row;       // first row in the work space
  uint32_t rows;
  uint32_t fold_begin;  // folded pages [fold_begin, fold_end)
  uint32_t fold_end;
  uint32_t own_page;  // unfolded pages [fold_end, own_page]
};

// Consecutive folded pages of one entry inside one aligned run of kRunPages.
struct PageRun {
  uint32_t entry;
  uint32_t first_page;
  uint32_t count;
  uint32_t wanted;   // bit i: page first_page + i is attended by some tile
  uint32_t guarded;  // bit i: it is whatever is chosen, as a sink or in the window
  std::array<HeadMask, kRunPages>
      heads{};  // by page: the kv heads whose tiles attend it, where pages are chosen
};

struct AttendPlan {
  std::vector<Tile> tiles;    // by entry
  std::vector<PageRun> runs;  // by entry, in position order
  uint32_t rows = 0;          // of all tiles

  // Where args.selection.start is set, a tile begins there, too.
  void build(const CacheConfig& config, const Step& step, const AttendArgs& args);
};

// The lowest position that a query sees.
constexpr uint64_t first_visible(uint64_t position, uint64_t window) {
  return window == 0 || position < window ? 0 : position - window + 1;
}

}  // namespace quire
