// Products of four warps that a thread has begun and not waited for. Thread safety: that of the block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu {

// A product of four warps under way: wgmma, of 32 bytes a row. d holds what this thread gets of it.
struct Product {
  enum Kind : uint8_t { kBytes, kWeights, kHalves };  // s8 s8, u8 s8, bf16
  Kind kind;
  void* d;
  size_t sums;             // of this thread
  const uint8_t* a_first;  // in shared memory; nullptr: in registers
  size_t a_reduction_step, a_row_step;
  uint32_t a[4];
  const uint8_t* b_first;
  size_t b_reduction_step, b_row_step;
  bool add;
  unsigned warp = 0;     // of its group
  size_t committed = 0;  // groups before
};
struct ProductQueue {
  static constexpr size_t kProducts = 16;
  Product products[kProducts];
  size_t count = 0;
  size_t committed = 0;  // groups, of all
};

}  // namespace emu
