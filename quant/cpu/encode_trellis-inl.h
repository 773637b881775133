// Encoding of the trellis codecs: the mean per channel, then targets in level units, then the cheapest path
// of each lane, then scales. Thread safety: pure functions.
#pragma once

#include <cstring>

#include "quant/cpu/encode_rotated-inl.h"
#include "quant/cpu/viterbi-inl.h"
#include "quant/scale_code.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// A token's residual, and the sum of its squares.
HWY_INLINE float residual_of(const float* row, uint32_t dim, Floats down, const float* mean,
                             float* residual) {
  Floats squares = splat(0.0F);
  for (uint32_t c = 0; c < dim; c += kLanes) {
    const Floats r = load(row + c) * down - load(mean + c);
    store(r, residual + c);
    squares = c == 0 ? r * r : squares + r * r;
  }
  return sum16(squares);
}

// The residual in level units; the scale that takes it there, 0 where it is negligible.
HWY_INLINE float set_targets(const float* residual, float energy, uint32_t dim, uint8_t* targets) {
  const float scale = square_root(energy * (1.0F / static_cast<float>(dim))) / kTrellisUnit;
  const bool negligible = scale < kNegligible;
  const Floats inverse = splat(negligible ? 0.0F : 1.0F / scale);
  for (uint32_t c = 0; c < dim; c += kLanes) {
    store_low_bytes(max(min(to_ints(load(residual + c) * inverse), splat(127)), splat(-127)), targets + c);
  }
  return negligible ? 0.0F : scale;
}

// The scale that makes a token's levels as long as the token, in the token's direction.
HWY_INLINE float unbiased_scale(const float* residual, float energy, float target_scale, uint32_t dim,
                                const uint8_t* levels) {
  Floats products = splat(0.0F);
  for (uint32_t c = 0; c < dim; c += kLanes) {
    const Floats product = load(residual + c) * to_floats(load_s8(levels + c));
    products = c == 0 ? product : products + product;
  }
  return trellis_scale(energy, sum16(products), target_scale);
}

// Bytes [tokens][dim] as quads along the reduction axis, [quads][lanes] dwords.
inline void gather_quads(Side side, SectionShape shape, const uint8_t* bytes, int32_t* quads) {
  if (side == Side::kKey) {
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      for (uint32_t quad = 0; quad < shape.dim / 4; ++quad) {
        quads[quad * shape.tokens + t] =
            static_cast<int32_t>(load_le<uint32_t>(bytes + size_t{t} * shape.dim + size_t{4} * quad));
      }
    }
    return;
  }
  for (uint32_t quad = 0; quad < shape.tokens / 4; ++quad) {
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const uint8_t* at = bytes + size_t{4} * quad * shape.dim + c;
      Ints four = load_u8(at);
      for (uint32_t i = 1; i < 4; ++i) {
        four = four | shift_left(load_u8(at + size_t{i} * shape.dim), static_cast<int>(8 * i));
      }
      store(four, quads + quad * shape.dim + c);
    }
  }
}

inline void scatter_quads(Side side, SectionShape shape, const int32_t* quads, uint8_t* bytes) {
  if (side == Side::kKey) {
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      for (uint32_t quad = 0; quad < shape.dim / 4; ++quad) {
        store_le(bytes + size_t{t} * shape.dim + size_t{4} * quad,
                 static_cast<uint32_t>(quads[quad * shape.tokens + t]));
      }
    }
    return;
  }
  for (uint32_t quad = 0; quad < shape.tokens / 4; ++quad) {
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const Ints four = load(quads + quad * shape.dim + c);
      for (uint32_t i = 0; i < 4; ++i) {
        const Ints byte = shift_right(four, static_cast<int>(8 * i)) & splat(0xFF);
        store_low_bytes(byte, bytes + (size_t{4} * quad + i) * shape.dim + c);
      }
    }
  }
}

// Bits kFrom.. of the codes in `quads` to a plane of kWidth-bit fields.
template <uint32_t kWidth, uint32_t kFrom>
void pack_quads(const int32_t* quads, uint32_t count, uint32_t lanes, uint8_t* plane) {
  constexpr uint32_t kShared = 8 / kWidth;
  constexpr auto kMask = static_cast<int32_t>(((1U << kWidth) - 1) * 0x01010101U);
  for (uint32_t j = 0; j < count / kShared; ++j) {
    for (uint32_t lane = 0; lane < lanes; lane += kLanes) {
      Ints word = splat(0);
      for_fields<kShared>([&](auto f) __attribute__((always_inline)) {
        const Ints codes = load(quads + (j * kShared + f()) * lanes + lane);
        word = word | shift_left(shift_right(codes, kFrom) & splat(kMask), f() * kWidth);
      });
      store(word, reinterpret_cast<int32_t*>(plane + (size_t{j} * lanes + lane) * 4));
    }
  }
}

template <uint32_t kBits>
void encode_trellis(Side side, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                    uint8_t* meta, uint32_t* param) {
  alignas(64) uint8_t rows[kMaxCodes];  // targets, then levels
  alignas(64) int32_t target_quads[kMaxCodes / 4];
  alignas(64) int32_t code_quads[kMaxCodes / 4];
  alignas(64) int32_t level_quads[kMaxCodes / 4];
  alignas(64) float mean[kMaxDim];
  alignas(64) float residual[kMaxDim];
  float scales[kMaxTokens] = {};
  if (first == shape.tokens) {
    std::memset(codes, 0, size_t{shape.tokens} * shape.dim * kBits / 8);
    std::memset(meta, 0, size_t{shape.tokens} + shape.dim);
    *param = 0;
    return;
  }
  const size_t left_out = size_t{first} * shape.dim;
  const int exponent =
      section_exponent(largest_magnitude(x + left_out, size_t{shape.tokens} * shape.dim - left_out));
  const float down = power_of_two(-exponent);
  const int mean_at = encode_mean(x, shape, first, down, meta + shape.tokens, mean);
  std::memset(rows, 0, left_out);
  for (uint32_t t = first; t < shape.tokens; ++t) {
    const size_t row = size_t{t} * shape.dim;
    const float energy = residual_of(x + row, shape.dim, splat(down), mean, residual);
    scales[t] = set_targets(residual, energy, shape.dim, rows + row);
  }

  const uint32_t quads = (side == Side::kKey ? shape.dim : shape.tokens) / 4;
  const uint32_t lanes = side == Side::kKey ? shape.tokens : shape.dim;
  gather_quads(side, shape, rows, target_quads);
  Viterbi<kBits> viterbi;
  for (uint32_t lane = 0; lane < lanes; lane += kLanes) {
    viterbi.run(target_quads + lane, quads, lanes, code_quads + lane, level_quads + lane);
  }
  scatter_quads(side, shape, level_quads, rows);
  if constexpr (kBits == 3) {
    pack_quads<2, 0>(code_quads, quads, lanes, codes);
    pack_quads<1, 2>(code_quads, quads, lanes, codes + high_plane_offset(shape));
  } else {
    pack_quads<kBits, 0>(code_quads, quads, lanes, codes);
  }

  for (uint32_t t = first; t < shape.tokens; ++t) {
    if (scales[t] == 0.0F) continue;
    const size_t row = size_t{t} * shape.dim;
    const float energy = residual_of(x + row, shape.dim, splat(down), mean, residual);
    scales[t] = unbiased_scale(residual, energy, scales[t], shape.dim, rows + row);
  }
  ScaleRange range = encode_scales(std::span(scales, shape.tokens), meta);
  range.largest += exponent * (1 << kMostMantissaBits);
  *param = pack_trellis_param(range, mean_at + kStepsPerOctave * exponent);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
