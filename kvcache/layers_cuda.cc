#include "kvcache/layers_cuda.h"

#include <algorithm>
#include <vector>

namespace quire {
namespace {

constexpr uint32_t kLevels = 16;  // of a non-uniform side, at most

bool is_balanced(const LayerConfig& layer) {
  return !layer.key_balance.empty() && find_codec(layer.key_codec)->space == CodecSpace::kRotated;
}

}  // namespace

size_t CudaLayers::balances() const {
  const bool any = std::ranges::any_of(config_.layer, is_balanced);
  return any ? size_t{config_.layers} * config_.kv_heads * config_.head_dim : 0;
}

void CudaLayers::carve(Carver* device) {
  levels_ = device->take<int8_t>(size_t{config_.layers} * 2 * kLevels);
  balances_ = device->take<float>(balances());
}

Status CudaLayers::load(CudaQueue& queue) const {
  std::vector<int8_t> levels(size_t{config_.layers} * 2 * kLevels);
  for (uint32_t i = 0; i < config_.layers; ++i) {
    const LayerConfig& layer = config_.layer[i];
    std::ranges::copy(layer.key_levels, levels.begin() + i * 2 * kLevels);
    std::ranges::copy(layer.value_levels, levels.begin() + (i * 2 + 1) * kLevels);
  }
  queue.up(levels_, levels.data(), levels.size());
  std::vector<float> all(balances());
  const size_t of_layer = size_t{config_.kv_heads} * config_.head_dim;
  for (uint32_t i = 0; i < config_.layers; ++i) {
    const LayerConfig& layer = config_.layer[i];
    if (is_balanced(layer)) std::ranges::copy(layer.key_balance, all.begin() + i * of_layer);
  }
  queue.up(balances_, all.data(), all.size());
  return queue.synchronize("copying parameters of layers");
}

const float* CudaLayers::key_balance(uint32_t layer) const {
  if (!is_balanced(config_.layer[layer])) return nullptr;
  return balances_ + size_t{layer} * config_.kv_heads * config_.head_dim;
}

cuda::SectionFormat CudaLayers::format(uint32_t index, bool first_page) const {
  const LayerConfig& layer = config_.layer[index];
  cuda::SectionFormat result = cuda::section_format(first_page ? layer.first_kind : layer.kind);
  const int8_t* levels = levels_ + size_t{index} * 2 * kLevels;
  if (!layer.key_levels.empty()) result.key_levels = levels;
  if (!layer.value_levels.empty()) result.value_levels = levels + kLevels;
  return result;
}

}  // namespace quire
