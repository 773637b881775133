// The dot-quad layout of code arrays: four consecutive elements along the reduction axis stand in one 32-bit
// lane, so that every consumer can multiply them with one instruction.
//
// Keys reduce over channels and their lanes are tokens; values reduce over tokens and their lanes are
// channels. This is the index arithmetic, one code at a time; kernels work on whole lanes. Thread safety:
// pure functions, apart from the bytes that put_code changes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/codec.h"

namespace quire {

// One element of one side seen as (reduction index, lane).
struct QuadIndex {
  uint32_t reduction;
  uint32_t lane;
  uint32_t lanes;
};

constexpr QuadIndex quad_index(Side side, SectionShape shape, uint32_t token, uint32_t channel) {
  if (side == Side::kKey) return {channel, token, shape.tokens};
  return {token, channel, shape.dim};
}

// Where a field of `width` bits (8, 4, 2 or 1) of one element lies inside its plane.
struct FieldPlace {
  size_t byte;
  uint32_t shift;
};

constexpr FieldPlace field_place(uint32_t width, QuadIndex at) {
  const uint32_t quad = at.reduction / 4;
  const uint32_t quads_per_byte = 8 / width;
  const size_t lane = size_t{quad / quads_per_byte} * at.lanes + at.lane;
  return {lane * 4 + at.reduction % 4, quad % quads_per_byte * width};
}

// 3-bit codes lie in two planes: the low two bits of all codes, then the high bit of all codes.
constexpr size_t high_plane_offset(SectionShape shape) { return size_t{shape.tokens} * shape.dim / 4; }

// Adds a code to an array that was zero there. bits: 8, 4, 3, 2 or 1.
constexpr void put_code(uint8_t* codes, Side side, SectionShape shape, uint32_t bits, uint32_t token,
                        uint32_t channel, uint32_t code) {
  const QuadIndex at = quad_index(side, shape, token, channel);
  if (bits == 3) {
    const FieldPlace high = field_place(1, at);
    uint8_t& byte = codes[high_plane_offset(shape) + high.byte];
    byte = static_cast<uint8_t>(byte | (code >> 2) << high.shift);
  }
  const FieldPlace low = field_place(bits == 3 ? 2 : bits, at);
  const uint32_t low_code = bits == 3 ? code & 3U : code;
  codes[low.byte] = static_cast<uint8_t>(codes[low.byte] | low_code << low.shift);
}

constexpr uint32_t get_code(const uint8_t* codes, Side side, SectionShape shape, uint32_t bits,
                            uint32_t token, uint32_t channel) {
  const QuadIndex at = quad_index(side, shape, token, channel);
  const uint32_t width = bits == 3 ? 2 : bits;
  const FieldPlace low = field_place(width, at);
  const uint32_t low_code = codes[low.byte] >> low.shift & ((1U << width) - 1);
  if (bits != 3) return low_code;
  const FieldPlace high = field_place(1, at);
  return low_code | (codes[high_plane_offset(shape) + high.byte] >> high.shift & 1U) << 2;
}

// Index of an element of a float code array. f32: keys [D][T], values [T][D]. bf16: pairs along the
// reduction axis, keys [D/2][T][2], values [T/2][D][2].
constexpr size_t float_index(Side side, SectionShape shape, uint32_t bits, uint32_t token, uint32_t channel) {
  const QuadIndex at = quad_index(side, shape, token, channel);
  if (bits == 32) return size_t{at.reduction} * at.lanes + at.lane;
  return (size_t{at.reduction / 2} * at.lanes + at.lane) * 2 + at.reduction % 2;
}

}  // namespace quire
