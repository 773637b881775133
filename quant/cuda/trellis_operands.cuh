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
  __device__ __forceinline__ uint32_t load_word(uint32_t row, uint32_t lane) const {
    return load_as<uint32_t>(codes + ((row * lanes + lane) * 4 ^ row % 4 * 32));
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

// Indices of levels, a byte per element of a quad: of the even quad of a thread and of the odd one.
struct TrellisIndices {
  uint32_t even;
  uint32_t odd;
};

// An index is six neighbouring bits of a row's byte above that of the row before (of 3-bit codes four, and
// two of `rest`, from another plane): four indices are made at once. i: of the thread, which has quads 2 i
// and 2 i + 1 of the block.
template <uint32_t kBits>
__device__ __forceinline__ TrellisIndices trellis_indices(uint32_t word, uint32_t before, uint32_t rest,
                                                          uint32_t i) {
  if constexpr (kBits == 4) {
    return {(word << 2 & 0x3C3C3C3CU) | (before >> 6 & 0x03030303U), word >> 2 & 0x3F3F3F3FU};
  } else if constexpr (kBits == 2) {
    const uint32_t mixed = (word << 4 & 0xF0F0F0F0U) | (before >> 4 & 0x0F0F0F0FU);
    const uint32_t bits = i % 2 == 0 ? mixed : word;
    return {bits & 0x3F3F3F3FU, bits >> 2 & 0x3F3F3F3FU};
  } else {
    // As many bits as both windows take, up to the odd quad's own: the lowest `of_before` are of the byte
    // before.
    constexpr uint32_t kWindow = kBits == 3 ? 4 : 6;
    constexpr uint32_t kBoth = 0x01010101U * ((2U << kWindow) - 1);
    constexpr uint32_t kOne = 0x01010101U * ((1U << kWindow) - 1);
    const uint32_t of_before = kWindow - 1 - 2 * i;  // odd, and below 0 where all are of the word
    const uint32_t turned = word << of_before % 32 | word >> (32 - of_before % 32);
    const bool in_word = 2 * i >= kWindow - 1;
    const uint32_t below = in_word ? 0U : 0x01010101U * ((1U << of_before % 32) - 1);
    const uint32_t bits = (turned & kBoth & ~below) | (before >> (9 + 2 * i - kWindow) % 32 & below);
    TrellisIndices at{bits & kOne, bits >> 1 & kOne};
    if constexpr (kBits == 3) {
      const uint32_t own = rest >> (i % 2 * 4);
      at.even |= own << 4 & 0x30303030U;
      at.odd |= own << 2 & 0x30303030U;
    }
    return at;
  }
}

// Levels of a trellis: [64] in shared memory. Bytes become words by multiplication with 2^8 and 2^16: the
// pipe that shifts and permutes has the most to do. A compiler that knows the factors would shift all the
// same.
struct TrellisTable {
  const int8_t* levels;
  uint32_t up = 1U << 8;
  uint32_t up_twice = 1U << 16;
};

// Levels in pack_order<true>. The table of 64 bytes takes 16 banks once, so that a warp's look-ups have no
// conflict whatever they ask for.
__device__ __forceinline__ void trellis_levels(const TrellisTable& table, const TrellisIndices& at,
                                               uint32_t (&b)[2]) {
  const auto level = [&](uint32_t indices, uint32_t e) {
    return uint32_t{static_cast<uint8_t>(table.levels[permute_bytes(indices, 0, 0x4440U + e)])};
  };
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    const uint32_t first = level(at.odd, 2 * r) * table.up + level(at.even, 2 * r);
    const uint32_t second = level(at.odd, 2 * r + 1) * table.up + level(at.even, 2 * r + 1);
    b[r] = second * table.up_twice + first;
  }
}

template <uint32_t kBits>
__device__ __forceinline__ Operands unpack_trellis(const PackedCodes& packed, const TrellisTable& table,
                                                   uint32_t block, uint32_t lane, Lane at) {
  constexpr uint32_t kPlane = kBits == 3 ? 1 : kBits;  // width of the fields that windows are made of
  constexpr uint32_t kRowsOfBlock = kPlane;            // 8 quads to a block, 8 / kPlane to a row
  const uint32_t first = lane + 4 * at.g;
  const uint32_t upper = kBits == 3 ? packed.reduction / 16 : 0;
  const uint32_t row = kRowsOfBlock * block + at.i * kPlane / 4;
  const PackedCodes plane{packed.codes + size_t{upper} * packed.lanes * 4, packed.lanes, packed.reduction};
  const uint4 words = plane.load(row, first);
  const uint4 before = plane.load_before(row, packed.reduction / 32 * kRowsOfBlock, first);
  uint4 rests{};
  if constexpr (kBits == 3) rests = packed.load(2 * block + at.i / 2, first);
  Operands unit;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const TrellisIndices indices =
        trellis_indices<kBits>(component(words, t), component(before, t), component(rests, t), at.i);
    trellis_levels(table, indices, unit.b[t]);
  }
  return unit;
}

}  // namespace quire::cuda
