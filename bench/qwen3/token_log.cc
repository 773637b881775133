#include "bench/qwen3/token_log.h"

#include <algorithm>

namespace quire::qwen3 {

void TokenLog::append(std::span<const int32_t> tokens) {
  while (!tokens.empty()) {
    const size_t at = size_ % kBlockTokens;
    if (at == 0) {
      blocks_.push_back(std::make_shared<Block>());
    } else if (blocks_.back().use_count() > 1) {
      blocks_.back() = std::make_shared<Block>(*blocks_.back());
    }
    const size_t count = std::min(tokens.size(), kBlockTokens - at);
    std::copy_n(tokens.begin(), count, blocks_.back()->begin() + at);
    size_ += count;
    tokens = tokens.subspan(count);
  }
}

std::vector<int32_t> TokenLog::copy(uint64_t first, uint64_t count) const {
  std::vector<int32_t> out;
  out.reserve(count);
  while (out.size() < count) {
    const uint64_t position = first + out.size();
    const size_t at = position % kBlockTokens;
    const auto begin = blocks_[position / kBlockTokens]->begin() + at;
    out.insert(out.end(), begin, begin + std::min<uint64_t>(count - out.size(), kBlockTokens - at));
  }
  return out;
}

}  // namespace quire::qwen3
