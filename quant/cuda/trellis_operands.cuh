// Codes of a trellis in shared memory to operands of matrix instructions, in pack_order<true>.
#pragma once

#include "quant/cuda/operands.cuh"

namespace quire::cuda {

// A section's codes in shared memory as they came: rows [lanes][4 bytes] of one side, bits 5 and 6 of an
// address mixed with the row, which keeps the rows that a warp reads at once on different banks.
struct PackedCodes {
  const uint8_t* codes;
  uint32_t lanes;
  uint32_t reduction;

  __device__ __forceinline__ uint4 load(uint32_t row, uint32_t lane) const {
    return load_as<uint4>(codes + ((row * lanes + lane) * 4 ^ row % 4 * 32));
  }
  // What stands before `row` in the chains of a trellis: before the first row the last, a byte on.
  __device__ __forceinline__ uint4 load_before(uint32_t row, uint32_t rows, uint32_t lane) const {
    if (row > 0) return load(row - 1, lane);
    uint4 last = load(rows - 1, lane);
    last.x = last.x << 8 | last.x >> 24;
    last.y = last.y << 8 | last.y >> 24;
    last.z = last.z << 8 | last.z >> 24;
    last.w = last.w << 8 | last.w >> 24;
    return last;
  }
};

__device__ __forceinline__ uint32_t component(const uint4& v, int t) {
  return t == 0 ? v.x : t == 1 ? v.y : t == 2 ? v.z : v.w;
}

// A trellis: words of a row and of the row before as pairs of bytes, from which six neighbouring bits (of
// 3-bit codes four, and two of another plane) make the index of a level.
struct BytePairs {
  uint32_t even;  // of bytes 0 and 2: the row's above that of the row before
  uint32_t odd;
  // The fields of `mask` that start at bit `shift` of byte e's pair.
  __device__ __forceinline__ uint32_t field(uint32_t e, uint32_t shift, uint32_t mask) const {
    return (e % 2 == 0 ? even : odd) >> (shift + e / 2 * 16) & mask;
  }
};

__device__ __forceinline__ BytePairs byte_pairs(uint32_t before, uint32_t word) {
  return {__byte_perm(before, word, 0x6240U), __byte_perm(before, word, 0x7351U)};
}

// levels: [64] in shared memory.
template <uint32_t kBits>
__device__ __forceinline__ Operands unpack_trellis(const PackedCodes& packed, const int8_t* levels,
                                                   uint32_t block, uint32_t lane, Lane at) {
  constexpr uint32_t kPlane = kBits == 3 ? 1 : kBits;  // width of the fields that windows are made of
  constexpr uint32_t kWindow = kBits == 3 ? 4 : 6;
  constexpr uint32_t kRowsOfBlock = kPlane;  // 8 quads to a block, 8 / kPlane to a row
  const uint32_t first = lane + 4 * at.g;
  const uint32_t upper = kBits == 3 ? packed.reduction / 16 : 0;
  const uint32_t quad = 2 * at.i;
  const uint32_t row = kRowsOfBlock * block + quad * kPlane / 8;
  const PackedCodes plane{packed.codes + size_t{upper} * packed.lanes * 4, packed.lanes, packed.reduction};
  const uint4 words = plane.load(row, first);
  const uint4 before = plane.load_before(row, packed.reduction / 32 * kRowsOfBlock, first);
  uint4 rests{};
  if constexpr (kBits == 3) rests = packed.load(2 * block + at.i / 2, first);
  const uint32_t place = quad % (8 / kPlane) * kPlane;  // of the first quad's field in its byte
  Operands unit;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const BytePairs pairs = byte_pairs(component(before, t), component(words, t));
    uint32_t levels_of[2];
#pragma unroll
    for (uint32_t q = 0; q < 2; ++q) {
      uint32_t word = 0;
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) {
        uint32_t index = pairs.field(e, 8 + place + (q + 1) * kPlane - kWindow, (1U << kWindow) - 1);
        if constexpr (kBits == 3)
          index |= (component(rests, t) >> (8 * e + 4 * (at.i % 2) + 2 * q) & 3U) << kWindow;
        word |= uint32_t{static_cast<uint8_t>(levels[index])} << (8 * e);
      }
      levels_of[q] = word;
    }
    unit.b[t][0] = __byte_perm(levels_of[0], levels_of[1], 0x5140U);
    unit.b[t][1] = __byte_perm(levels_of[0], levels_of[1], 0x7362U);
  }
  return unit;
}

}  // namespace quire::cuda
