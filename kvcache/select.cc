#include "kvcache/select.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire {
namespace {

// Turns a row's masses into shares of their sum.
void to_shares(float* mass, uint32_t pages) {
  const float largest = *std::max_element(mass, mass + pages);
  double sum = 0;
  for (uint32_t i = 0; i < pages; ++i) {
    mass[i] = std::exp2(mass[i] - largest);
    sum += static_cast<double>(mass[i]);
  }
  const auto inverse = static_cast<float>(1 / sum);
  for (uint32_t i = 0; i < pages; ++i) mass[i] *= inverse;
}

void weigh_pages(const SelectionScores& scores) {
  std::copy_n(scores.mass, scores.pages, scores.weight);
  for (uint32_t row = 1; row < scores.rows; ++row) {
    const float* share = scores.mass + size_t{row} * scores.pages;
    for (uint32_t i = 0; i < scores.pages; ++i) scores.weight[i] = std::max(scores.weight[i], share[i]);
  }
}

// By the highest score, in distance from the row's highest of all: what matters is that some row may look
// there.
void weigh_peaks(const SelectionScores& scores) {
  std::fill_n(scores.weight, scores.pages, -std::numeric_limits<float>::infinity());
  for (uint32_t row = 0; row < scores.rows; ++row) {
    const float* peak = scores.peak + size_t{row} * scores.pages;
    const float highest = *std::max_element(peak, peak + scores.pages);
    for (uint32_t i = 0; i < scores.pages; ++i) {
      scores.weight[i] = std::max(scores.weight[i], peak[i] - highest);
    }
  }
}

// The pages that are not chosen yet, in scores.order; returns their number.
uint32_t list_candidates(const SelectionScores& scores, const uint8_t* chosen) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < scores.pages; ++i) {
    if (chosen[i] == 0) scores.order[count++] = i;
  }
  return count;
}

void choose_top(const SelectionScores& scores, uint32_t pages, uint8_t* chosen) {
  const uint32_t count = list_candidates(scores, chosen);
  uint32_t* order = scores.order;
  const auto heavier = [&](uint32_t a, uint32_t b) {
    return scores.weight[a] != scores.weight[b] ? scores.weight[a] > scores.weight[b] : a < b;
  };
  const uint32_t taken = std::min(pages, count);
  if (taken < count) std::nth_element(order, order + taken, order + count, heavier);
  for (uint32_t i = 0; i < taken; ++i) chosen[order[i]] = 1;
}

// How many pages kTopPages takes beside those that are always there. A share is rounded up, but .1F, which
// lies a little above a tenth, is a tenth.
uint32_t pages_wanted(const Selection& selection, uint32_t pages) {
  constexpr double kFloatError = 0x1p-23;
  const double share = std::ceil(static_cast<double>(selection.share) * pages * (1 - kFloatError));
  return std::max(selection.pages, static_cast<uint32_t>(share));
}

double chosen_share(const float* share, uint32_t pages, const uint8_t* chosen) {
  double sum = 0;
  for (uint32_t i = 0; i < pages; ++i) sum += chosen[i] != 0 ? static_cast<double>(share[i]) : 0.0;
  return sum;
}

void choose_mass(const SelectionScores& scores, float mass, uint8_t* chosen) {
  constexpr uint32_t kMaxRows = 16;
  double held[kMaxRows];
  for (uint32_t row = 0; row < scores.rows; ++row) {
    held[row] = chosen_share(scores.mass + size_t{row} * scores.pages, scores.pages, chosen);
  }
  const auto enough = [&] {
    return std::all_of(held, held + scores.rows, [&](double h) { return h >= static_cast<double>(mass); });
  };
  const uint32_t count = list_candidates(scores, chosen);
  // A heap, because few pages hold most of the mass.
  const auto lighter = [&](uint32_t a, uint32_t b) {
    return scores.weight[a] != scores.weight[b] ? scores.weight[a] < scores.weight[b] : a > b;
  };
  uint32_t* end = scores.order + count;
  std::make_heap(scores.order, end, lighter);
  while (end != scores.order && !enough()) {
    std::pop_heap(scores.order, end, lighter);
    const uint32_t page = *--end;
    chosen[page] = 1;
    for (uint32_t row = 0; row < scores.rows; ++row) {
      held[row] += static_cast<double>(scores.mass[size_t{row} * scores.pages + page]);
    }
  }
}

}  // namespace

void choose_pages(const Selection& selection, const SelectionScores& scores, uint8_t* chosen,
                  float* left_out) {
  for (uint32_t i = 0; i < scores.pages; ++i) chosen[i] = scores.always[i] != 0 ? 1 : 0;
  for (uint32_t row = 0; row < scores.rows; ++row) {
    to_shares(scores.mass + size_t{row} * scores.pages, scores.pages);
  }
  weigh_pages(scores);
  if (selection.kind == SelectionKind::kTopPages) {
    const uint32_t pages = pages_wanted(selection, scores.pages);
    choose_top(scores, pages - pages / 2, chosen);
    weigh_peaks(scores);
    choose_top(scores, pages / 2, chosen);
  } else {
    choose_mass(scores, selection.mass, chosen);
  }
  for (uint32_t row = 0; row < scores.rows; ++row) {
    const float* share = scores.mass + size_t{row} * scores.pages;
    double held = 0;
    double missed = 0;
    for (uint32_t i = 0; i < scores.pages; ++i) {
      (chosen[i] == 0 ? missed : held) += static_cast<double>(share[i]);
    }
    left_out[row] = static_cast<float>(std::log2(missed) - std::log2(held));
  }
}

}  // namespace quire
