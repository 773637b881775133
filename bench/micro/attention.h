// One thread's attention of a tile of rows over pages, called as the store calls it: runs of pages, state
// carried from run to run. Thread safety: one thread per object; the pages are shared.
#pragma once

#include <span>
#include <vector>

#include "bench/micro/folded_heads.h"

namespace quire::micro {

// Pages of one call, as the store cuts them (kRunPages).
inline constexpr size_t kCallPages = 16;

// Normal rows of q, scaled as a model's softmax would: [rows][dim].
std::vector<float> make_queries(size_t rows, uint32_t dim);

class Attention {
 public:
  // For `tiles` tiles of `rows` rows each; q: [tiles][rows][dim], or [rows][dim] for all of them.
  Attention(const Kernels& kernels, const FoldedHeads& heads, uint32_t tiles, uint32_t rows,
            std::span<const float> q);

  void clear();
  // Tile `tile` over pages [first, end) of a head, at most kCallPages. next: a section that follows, or null.
  void attend(uint32_t tile, size_t head, size_t first, size_t end, const uint8_t* next);
  // The output of a tile, [rows][dim].
  std::span<const float> finish(uint32_t tile);

 private:
  AttendState state_of(uint32_t tile);

  const Kernels& kernels_;
  const FoldedHeads& heads_;
  uint32_t rows_;
  std::span<const float> q_;
  std::vector<float> o_;
  std::vector<float> m_;
  std::vector<float> l_;
  BigBuffer scratch_;
};

// Tile 0 over all pages of a head, from an empty state.
void attend_all_pages(Attention& attention, const FoldedHeads& heads, size_t head);

// Empty rows.
void clear_state(const AttendState& state, uint32_t rows, uint32_t dim);

// Relative L2 error of attention over head 0's first `pages` pages against f64 over their decoded values: the
// largest of all rows of q, at most kMaxTileRows.
double attend_error(const Kernels& kernels, const FoldedHeads& heads, std::span<const float> q, size_t pages);

}  // namespace quire::micro
