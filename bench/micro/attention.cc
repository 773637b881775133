#include "bench/micro/attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "bench/micro/truth.h"

namespace quire::micro {

std::vector<float> make_queries(size_t rows, uint32_t dim) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  const auto scale = static_cast<float>(std::numbers::log2e / std::sqrt(dim));
  std::vector<float> q(rows * dim);
  for (float& x : q) x = normal(random) * scale;
  return q;
}

Attention::Attention(const Kernels& kernels, const FoldedHeads& heads, uint32_t tiles, uint32_t rows,
                     std::span<const float> q)
    : kernels_(kernels),
      heads_(heads),
      rows_(rows),
      q_(q),
      o_(size_t{tiles} * rows * heads.kind.shape.dim),
      m_(size_t{tiles} * rows),
      l_(m_.size()),
      scratch_(kernels.attend_scratch_bytes(rows, heads.kind.shape)) {}

void Attention::clear() {
  std::ranges::fill(o_, 0.0F);
  std::ranges::fill(m_, -HUGE_VALF);
  std::ranges::fill(l_, 0.0F);
}

AttendState Attention::state_of(uint32_t tile) {
  const size_t row = size_t{tile} * rows_;
  return {o_.data() + row * heads_.kind.shape.dim, m_.data() + row, l_.data() + row};
}

void Attention::attend(uint32_t tile, size_t head, size_t first, size_t end, const uint8_t* next) {
  const KeyRotation rotation = heads_.angles.from(first);
  FoldedPages folded = heads_.folded(&rotation);
  folded.next_call = next;
  const size_t tile_floats = size_t{rows_} * heads_.kind.shape.dim;
  const float* q = q_.data() + (q_.size() == tile_floats ? 0 : tile * tile_floats);
  kernels_.attend_folded(folded, std::span(heads_.heads[head]).subspan(first, end - first),
                         {q, rows_, nullptr}, state_of(tile), scratch_.data());
}

std::span<const float> Attention::finish(uint32_t tile) {
  const AttendState state = state_of(tile);
  kernels_.finish(state, rows_, heads_.kind.shape.dim, nullptr);
  return {state.o, size_t{rows_} * heads_.kind.shape.dim};
}

void attend_all_pages(Attention& attention, const FoldedHeads& heads, size_t head) {
  attention.clear();
  const size_t pages = heads.pages.size();
  for (size_t page = 0; page < pages; page += kCallPages) {
    const size_t stop = std::min(page + kCallPages, pages);
    attention.attend(0, head, page, stop, heads.heads[head][stop % pages].section);
  }
}

void clear_state(const AttendState& state, uint32_t rows, uint32_t dim) {
  std::fill_n(state.o, size_t{rows} * dim, 0.0F);
  std::fill_n(state.m, rows, -HUGE_VALF);
  std::fill_n(state.l, rows, 0.0F);
}

double attend_error(const Kernels& kernels, const FoldedHeads& heads, std::span<const float> q,
                    size_t pages) {
  const uint32_t dim = heads.kind.shape.dim;
  const auto rows = static_cast<uint32_t>(q.size() / dim);
  pages = std::min(pages, heads.pages.size());
  Attention attention(kernels, heads, 1, rows, q);
  attention.clear();
  for (size_t page = 0; page < pages; page += kCallPages) {
    attention.attend(0, 0, page, std::min(page + kCallPages, pages), nullptr);
  }
  const std::span<const float> out = attention.finish(0);
  const DecodedHead decoded = decode_head(heads, 0, pages);
  double worst = 0;
  for (uint32_t row = 0; row < rows; ++row) {
    const std::vector<double> truth = attend_f64(decoded, q.subspan(size_t{row} * dim, dim));
    worst = std::max(worst, relative_error(out.subspan(size_t{row} * dim, dim), truth));
  }
  return worst;
}

}  // namespace quire::micro
