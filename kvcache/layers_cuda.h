// What the kernels have to know of a layer, some of it in the GPU's memory.
//
// Thread safety: immutable after load.
#pragma once

#include "kvcache/config.h"
#include "kvcache/cuda_queue.h"
#include "quant/carver.h"
#include "quant/cuda/launch.h"

namespace quire {

class CudaLayers {
 public:
  explicit CudaLayers(const CacheConfig& config) : config_(config) {}

  void carve(Carver* device);
  // Returns when all is there.
  Status load(CudaQueue& queue) const;
  cuda::SectionFormat format(uint32_t layer, bool first_page) const;
  // [kv_heads][head_dim] of keys in rotated space, or nullptr: all are 1.
  const float* key_balance(uint32_t layer) const;

 private:
  size_t balances() const;

  const CacheConfig& config_;
  int8_t* levels_ = nullptr;   // [layers][key, value][kLevels]
  float* balances_ = nullptr;  // [layers][kv_heads][head_dim]
};

}  // namespace quire
