// Which folded pages a tile of queries attends: a choice from estimates of every page's attention mass.
//
// Estimates are, per query row and page, log2 of the sum of exp2(score) over the page's tokens, and the
// highest score that a token may have. A page weighs what it weighs for the row that needs it most: the
// largest, over the rows, of its share in the row's mass. Pure functions; the same estimates give the same
// choice, ties go to the older page. Thread safety: none needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quire {

enum class SelectionKind : uint8_t {
  kNone,      // every page
  kTopPages,  // `pages` of them, or `share`: half by what they weigh, half for single tokens, by the highest
              // score
  kMass,      // the fewest that hold `mass` of every row's mass, by the estimates
};

// What one attend call leaves out. Page 0, the pages that hold any of the `window` tokens before a query, and
// unfolded pages are always attended.
struct Selection {
  SelectionKind kind = SelectionKind::kNone;
  uint32_t pages = 0;              // kTopPages
  float share = 0;                 // kTopPages: of all folded pages, [0, 1]; where that is more than `pages`
  float mass = 0;                  // kMass: (0, 1]
  uint64_t window = 0;             // tokens
  bool check = false;              // attend the rest as well, apart, to tell what was missed
  const uint8_t* start = nullptr;  // [n]: nonzero where queries begin that choose together, or nullptr
  float* missed_mass = nullptr;    // [n][query_heads] or nullptr
};

// One tile's estimates and the room to work in.
struct SelectionScores {
  uint32_t rows = 0;
  uint32_t pages = 0;
  float* mass = nullptr;            // [rows][pages] log2; finite. Overwritten with shares.
  const float* peak = nullptr;      // [rows][pages] log2; finite
  float* weight = nullptr;          // [pages] work space
  uint32_t* order = nullptr;        // [pages] work space
  const uint8_t* always = nullptr;  // [pages]: nonzero is chosen whatever it weighs
};

// chosen[i] is set to 1 for every page that is attended and to 0 for the others. left_out[row]: log2 of the
// estimated mass of the pages that are not, in units of that of the pages that are; -infinity when there are
// none, +infinity when all are.
void choose_pages(const Selection& selection, const SelectionScores& scores, uint8_t* chosen,
                  float* left_out);

}  // namespace quire
