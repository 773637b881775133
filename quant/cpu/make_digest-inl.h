// Digests of keys: quant/digest.cc's make_digest, byte for byte, sixteen pairs of channels at a time.
//
// Keys are read three times, after the first from cache: for the longest pair, for means, and for distances
// from them. What bounds it are 18 additions, multiplications and maxima for every sixteen pairs. Thread
// safety: pure functions.
#pragma once

#include <cstring>

#include "quant/cpu/lanes-inl.h"
#include "quant/digest.h"
#include "quant/section_exponent.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

HWY_INLINE Floats squared(Floats x, Floats y) { return x * x + y * y; }

// The square of the longest pair. Scaled: Floats to Floats.
template <class Scaled>
HWY_INLINE float longest_square(const float* keys, SectionShape shape, Scaled scaled) {
  const uint32_t pairs = shape.dim / 2;
  const auto square = [&](const float* pair) __attribute__((always_inline)) {
    return squared(scaled(load(pair)), scaled(load(pair + pairs)));
  };
  Floats longest = splat(0.0F);
  Floats other = splat(0.0F);  // one maximum does not wait for the one before it
  for (uint32_t t = 0; t < shape.tokens; t += 2) {
    const float* row = keys + size_t{t} * shape.dim;
    for (uint32_t p = 0; p < pairs; p += kLanes) {
      longest = max(longest, square(row + p));
      other = max(other, square(row + shape.dim + p));
    }
  }
  return largest_lane(max(longest, other));
}

// Where no square leaves the range of floats the exponent need not be known: a power of two changes no
// rounding, and what underflows is far below the last bit of the longest.
inline float make_digest_grid(const float* keys, SectionShape shape) {
  const auto as_is = [](Floats x) __attribute__((always_inline)) { return x; };
  const float square = longest_square(keys, shape, as_is);
  if (0x1p-60F < square && square < 0x1p120F) return digest_grid_for(square_root(square), 0);
  const int exponent = section_exponent(largest_magnitude(keys, size_t{shape.tokens} * shape.dim));
  const Floats down = splat(power_of_two(-exponent));
  const auto scaled = [&](Floats x) __attribute__((always_inline)) { return x * down; };
  return digest_grid_for(square_root(longest_square(keys, shape, scaled)), exponent);
}

// Sixteen pairs of a block. keys: of its first token, the pairs' first channels. mean: where theirs go.
HWY_INLINE void digest_pairs(const float* keys, uint32_t dim, Floats steps, uint8_t* mean, uint8_t* radius) {
  const uint32_t pairs = dim / 2;
  const float* const end = keys + size_t{kDigestBlockTokens} * dim;
  Floats x = splat(0.0F);
  Floats y = splat(0.0F);
  for (const float* key = keys; key != end; key += dim) {
    x = x + load(key) * steps;
    y = y + load(key + pairs) * steps;
  }
  x = round(x * splat(kDigestMeanShare));
  y = round(y * splat(kDigestMeanShare));
  Floats farthest = splat(0.0F);
  for (const float* key = keys; key != end; key += dim) {
    farthest = max(farthest, squared(load(key) * steps - x, load(key + pairs) * steps - y));
  }
  store_low_bytes(to_ints(x), mean);
  store_low_bytes(to_ints(y), mean + pairs);
  store_low_bytes(to_ints(ceil(sqrt(farthest) + splat(kDigestRounding))), radius);
}

inline void make_digest(const float* keys, SectionShape shape, uint8_t* digest) {
  const float grid = make_digest_grid(keys, shape);
  const Floats steps = splat(1 / grid);
  std::memcpy(digest, &grid, sizeof grid);
  uint8_t* block = digest + sizeof grid;
  for (uint32_t b = 0; b < digest_blocks(shape); ++b, block += digest_block_bytes(shape.dim)) {
    const float* rows = keys + size_t{b} * kDigestBlockTokens * shape.dim;
    for (uint32_t p = 0; p < shape.dim / 2; p += kLanes) {
      digest_pairs(rows + p, shape.dim, steps, block + p, block + shape.dim + p);
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
