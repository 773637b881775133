#include "bench/micro/pooled_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace quire::micro {
namespace {

constexpr size_t kWaveRuns = 32;  // runs of pages between two barriers

}  // namespace

PooledAttention::PooledAttention(const SharedHeads& heads, const Kernels& kernels, uint32_t group,
                                 uint32_t n_q, uint32_t threads)
    : heads_(heads),
      kernels_(kernels),
      group_(group),
      n_q_(n_q),
      tile_rows_(tile_tokens(*heads, group, n_q) * group),
      pool_(threads) {
  const size_t kv_heads = heads->kind.kv_heads;
  const uint32_t dim = heads->kind.shape.dim;
  q_ = make_queries(n_q == 1 ? kv_heads * group : tile_rows_, dim);
  if (n_q == 1) partials_.resize((kWaveRuns + 1) * kv_heads * group * (dim + 2));
  for (uint32_t i = 0; i < pool_.threads(); ++i) {
    if (n_q == 1) {
      scratch_.emplace_back(kernels.attend_scratch_bytes(group, heads->kind.shape));
    } else {
      prefills_.push_back(std::make_unique<Attention>(kernels, *heads, 1, tile_rows_, q_));
    }
  }
}

void PooledAttention::run() { n_q_ == 1 ? decode() : prefill(); }

AttendState PooledAttention::state(size_t index) {
  const uint32_t dim = heads_->kind.shape.dim;
  float* o = partials_.data() + index * group_ * (dim + 2);
  float* m = o + size_t{group_} * dim;
  return {o, m, m + group_};
}

void PooledAttention::decode() {
  const size_t pages = heads_->pages.size();
  for (size_t head = 0; head < heads_->kind.kv_heads; ++head) {
    clear_state(state(head), group_, heads_->kind.shape.dim);
  }
  for (size_t first = 0; first < pages; first += kWaveRuns * kCallPages) {
    decode_wave(first, std::min(kWaveRuns, (pages - first + kCallPages - 1) / kCallPages));
  }
  for (size_t head = 0; head < heads_->kind.kv_heads; ++head) {
    kernels_.finish(state(head), group_, heads_->kind.shape.dim, nullptr);
  }
}

void PooledAttention::decode_wave(size_t first_page, size_t runs) {
  const uint32_t dim = heads_->kind.shape.dim;
  const size_t items = runs * heads_->kind.kv_heads;
  std::atomic<size_t> next{0};
  const auto sections_of = [&](size_t item) {
    const size_t page = first_page + item % runs * kCallPages;
    const size_t count = std::min(kCallPages, heads_->pages.size() - page);
    return std::span(heads_->heads[item / runs]).subspan(page, count);
  };
  parallel_for(pool_, pool_.threads(), [&](uint32_t lane) {
    for (size_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) {
      const size_t head = item / runs;
      const AttendState part = partial(item % runs, head);
      clear_state(part, group_, dim);
      FoldedPages folded = heads_->folded(nullptr);
      const size_t after = next.load(std::memory_order_relaxed);
      if (after < items) folded.next_call = sections_of(after).front().section;
      kernels_.attend_folded(folded, sections_of(item), {q_.data() + head * group_ * dim, group_, nullptr},
                             part, scratch_[lane].data());
    }
  });
  for (size_t item = 0; item < items; ++item) {
    kernels_.merge(state(item / runs), partial(item % runs, item / runs), group_, dim);
  }
}

void PooledAttention::prefill() {
  const uint32_t rows_of_head = n_q_ * group_;
  const uint32_t tiles = (rows_of_head + tile_rows_ - 1) / tile_rows_ * heads_->kind.kv_heads;
  std::atomic<uint32_t> next{0};
  parallel_for(pool_, pool_.threads(), [&](uint32_t lane) {
    for (uint32_t tile = next.fetch_add(1); tile < tiles; tile = next.fetch_add(1)) {
      attend_all_pages(*prefills_[lane], *heads_, tile % heads_->kind.kv_heads);
      prefills_[lane]->finish(0);
    }
  });
}

}  // namespace quire::micro
