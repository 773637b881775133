// Digests: what is kept in memory of one section's keys, so that the scores of queries can be bounded and its
// share of their attention estimated without reading it.
//
// A digest is of blocks of 16 tokens. Of each it holds, for every pair of channels c and c + dim / 2, a disc
// that all its keys lie in: the mean and the largest distance from it, on one grid. So no score exceeds
// q . mean + sum |q_pair| radius of the pair (Quest, arXiv 2406.10774, bounds by the min and max of every
// channel: boxes, which need a third more bytes and choose no better). Two things are told from it. How much
// of a query's attention the section holds: the mean's score and 5/16 of the way from there to the bound for
// the spread, added up over the blocks. And how high a single key may score: the bound, without which a key
// that stands alone is overlooked. Blocks, because a bound over 64 tokens is far above the scores of most of
// them. Eight bits per number: bf16 would double the bytes and the time to read them. The bytes are the
// library's own business and never leave memory. They are made in f32 in an order that is fixed and scored in
// integers, so they are the same on every machine; what the bound depends on is rounded upwards. Thread
// safety: pure functions.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "quant/codec.h"
#include "quant/steps.h"

namespace quire {

inline constexpr uint32_t kDigestBlockTokens = 16;

constexpr uint32_t digest_blocks(SectionShape shape) { return shape.tokens / kDigestBlockTokens; }

// i8 mean of every channel, u8 radius of every pair.
constexpr size_t digest_block_bytes(uint32_t dim) { return size_t{3} * dim / 2; }

// f32 grid, then the blocks.
constexpr size_t digest_bytes(SectionShape shape) {
  return sizeof(float) + digest_blocks(shape) * digest_block_bytes(shape.dim);
}

// keys: [shape.tokens][shape.dim] f32, finite, in the space in which queries meet them. digest:
// digest_bytes(shape) bytes. Plain code, the oracle of Kernels::make_digest, which is for use.
void make_digest(const float* keys, SectionShape shape, uint8_t* digest);

// A query in whole numbers: q[c] * scale.
struct DigestQuery {
  float scale;
  float error;  // no channel is further from q * scale than this
  std::array<int16_t, 256> q;
  std::array<int16_t, 128> norm;  // of every pair of q, rounded up
};

// q: [dim], finite, times softmax_scale * log2(e).
void make_digest_query(const float* q, uint32_t dim, DigestQuery* out);

// Never below the score of any key of the section, in log2 units.
float score_bound(const uint8_t* digest, SectionShape shape, const DigestQuery& query);

// For every query i and digest p, finite: at mass[i * stride + p] about log2 of the sum of exp2(score) over
// the section, at peak[i * stride + p] about the bound (score_bound is rounded with care). Plain code:
// Kernels::score_digests is for use.
void score_digests(std::span<const uint8_t* const> digests, SectionShape shape,
                   std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak);

// The parts of them, for the tables of instruction sets.

// Means are no longer than the longest pair, 127 steps of the grid, and no key is further from one than twice
// that and what rounding moves the mean: all numbers are bytes.
inline constexpr float kDigestMeanSteps = 127;
// The grid for a longest pair of 1: a millionth coarser, which is more than rounding takes.
inline constexpr float kDigestStep = 1.000001F / kDigestMeanSteps;
inline constexpr float kDigestMeanShare = 1.0F / kDigestBlockTokens;
// More than rounding takes from a distance in steps, which is 255 at most: some 2^-13.
inline constexpr float kDigestRounding = 0x1p-12F;
// Keys that are nothing beside it have a grid whose inverse is still finite.
inline constexpr float kSmallestDigestGrid = 0x1p-120F;

// longest: the longest pair of keys times 2^-exponent, less by some roundings than the true one at most. The
// exponent is section_exponent's of the keys' largest magnitude: squares of huge and tiny keys stay in range.
inline float digest_grid_for(float longest, int exponent) {
  return std::max(kSmallestDigestGrid, longest * kDigestStep * power_of_two(exponent));
}

struct DigestBlock {
  const uint8_t* mean;    // i8 [dim]
  const uint8_t* radius;  // [dim / 2]
};

inline float digest_grid(const uint8_t* digest) {
  float grid;
  std::memcpy(&grid, digest, sizeof grid);
  return grid;
}

constexpr DigestBlock digest_block(const uint8_t* digest, uint32_t dim, uint32_t block) {
  const uint8_t* at = digest + sizeof(float) + block * digest_block_bytes(dim);
  return {at, at + dim};
}

// How far towards the bound the estimate of a block's mass goes, 5/16: measured, see above. reach >= 0.
constexpr int32_t digest_spread(int32_t reach) { return (reach >> 2) + (reach >> 4); }
inline constexpr float kDigestBlockMass = 4;  // log2 of a block's tokens
inline constexpr float kDigestUnit = 1e28F;   // at most: what is estimated in such units stays finite

// About log2(exp2(a) + exp2(b)), .11 below it at the most, of operations that round alike everywhere.
inline float add_mass(float a, float b) {
  const float near = std::max(0.0F, 1 - 0.25F * std::abs(a - b));
  return std::max(a, b) + near * near;
}

// Of a digest's blocks, one after the other.
struct DigestScore {
  float unit;  // of the sums: the digest's grid times the query's scale
  float mass = 0;
  int32_t peak = 0;

  // mean: q . mean; reach: sum of |q_pair| radius. Sums over 256 channels stay below 2^31.
  void add(uint32_t block, int32_t mean, int32_t reach) {
    const float here = unit * static_cast<float>(mean + digest_spread(reach));
    mass = block == 0 ? here : add_mass(mass, here);
    peak = block == 0 ? mean + reach : std::max(peak, mean + reach);
  }
};

inline float digest_unit(float grid, float scale) { return std::min(grid * scale, kDigestUnit); }

}  // namespace quire
