// Barriers that count arrivals and the bytes of bulk copies (mbarrier), of one block.
//
// A copy's bytes are 0xFF until someone waits for its barrier, so that a missing wait is seen every time; a
// copy over what others still read is, too. Sizes are fixed: what a fiber allocates and another frees would
// be a race to ThreadSanitizer. Thread safety: that of the block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace emu {

struct BulkCopy {
  void* dst;
  const void* src;
  size_t bytes;
};

struct CopyBarrierState {
  static constexpr size_t kCopies = 8;
  const void* at = nullptr;
  unsigned arrivals = 0;  // of a phase
  unsigned missing = 0;
  uint64_t phase = 0;
  size_t expected = 0;  // bytes, of this phase
  size_t given = 0;
  std::array<BulkCopy, kCopies> copies{};
  size_t count = 0;

  bool complete() const { return missing == 0 && expected == given; }
};

struct CopyBarriers {
  static constexpr size_t kBarriers = 32;
  std::array<CopyBarrierState, kBarriers> barriers{};
  size_t count = 0;
};

}  // namespace emu
