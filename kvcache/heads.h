// Sets of kv heads. Value type and pure functions.
#pragma once

#include <cstdint>

namespace quire {

// Bit h: kv head h. Where a model has more heads than bits, only whole pages are asked for.
using HeadMask = uint64_t;
inline constexpr HeadMask kAllHeads = UINT64_MAX;
inline constexpr uint32_t kMaxMaskedHeads = 64;

constexpr HeadMask first_heads(uint32_t count) {
  return count >= kMaxMaskedHeads ? kAllHeads : (HeadMask{1} << count) - 1;
}
// kAllHeads where no bit stands for the head.
constexpr HeadMask head_bit(uint32_t head) {
  return head >= kMaxMaskedHeads ? kAllHeads : HeadMask{1} << head;
}

}  // namespace quire
