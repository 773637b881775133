// Attention through the store's thread pool, cut as the store cuts it: decode into runs of pages and heads,
// in waves with a barrier after each; prefill into tiles of rows. Thread safety: one caller.
#pragma once

#include <memory>
#include <vector>

#include "bench/micro/attend_cases.h"
#include "bench/micro/attention.h"
#include "kvcache/executor.h"

namespace quire::micro {

class PooledAttention {
 public:
  // n_q query tokens of `group` heads for each kv head; 1 is decode. They see all pages.
  PooledAttention(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t n_q,
                  uint32_t threads);

  void run();
  uint32_t threads() const { return pool_.threads(); }

 private:
  void decode();
  void decode_wave(size_t first_page, size_t runs);
  void prefill();
  AttendState state(size_t index);  // of partials_
  AttendState partial(size_t run, size_t head) { return state((run + 1) * heads_->kind.kv_heads + head); }

  SharedHeads heads_;
  const Kernels& kernels_;
  uint32_t group_;
  uint32_t n_q_;
  uint32_t tile_rows_;  // of prefill
  ThreadPool pool_;
  std::vector<float> q_;
  std::vector<float> partials_;                       // decode: totals of the heads, then one for each item
  std::vector<BigBuffer> scratch_;                    // decode: one for each thread
  std::vector<std::unique_ptr<Attention>> prefills_;  // prefill: one for each thread
};

}  // namespace quire::micro
