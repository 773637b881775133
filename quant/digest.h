// Digests: what is kept in memory of one section's keys, so that the scores of queries can be bounded and its
// share of their attention estimated without reading it.
//
// A digest holds every channel's mean and its largest distance from it, on one grid: each key lies within
// mean +- radius, so no score exceeds q . mean + |q| . radius (Quest, arXiv 2406.10774, bounds by min and
// max). Two things are told from it. How much of a query's attention the section holds: the mean's score, and
// .3 of the way from there to the bound for the spread; that ranks pages as well as means and variances do,
// while the bound alone grows with channels that the query hardly uses. And how high a single key may score:
// the bound, without which a key that stands alone among 64 is overlooked. Eight bits per number: bf16 would
// double the bytes and the time to read them. The bytes are the library's own business and never leave
// memory. Arithmetic is exact, or rounded upwards where the bound depends on it, and the same on every
// machine. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/codec.h"

namespace quire {

// f32 grid and f32 sum of the channels' largest magnitudes, then i8 mean and u8 radius of every channel.
constexpr size_t digest_bytes(uint32_t dim) { return 8 + size_t{2} * dim; }

// keys: [shape.tokens][shape.dim] f32, finite, in the space in which queries meet them. digest:
// digest_bytes(shape.dim) bytes.
void make_digest(const float* keys, SectionShape shape, uint8_t* digest);

// A query in whole numbers: q[c] * scale.
struct DigestQuery {
  float scale;
  float error;  // no channel is further from q * scale than this
  std::array<int16_t, 256> q;
  std::array<int16_t, 256> magnitude;
};

// q: [dim], finite, times softmax_scale * log2(e).
void make_digest_query(const float* q, uint32_t dim, DigestQuery* out);

// Never below the score of any key of the section, in log2 units.
float score_bound(const uint8_t* digest, uint32_t dim, const DigestQuery& query);

// For every query i, finite: at mass[i * stride] log2 of the estimated sum of exp2(score) over the section,
// at peak[i * stride] about the bound (score_bound is rounded with care).
void score_digest(const uint8_t* digest, SectionShape shape, std::span<const DigestQuery> queries,
                  size_t stride, float* mass, float* peak);

}  // namespace quire
