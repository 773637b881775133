// Digests: what is kept in memory of one section's keys, so that the scores of queries can be bounded and its
// share of their attention estimated without reading it.
//
// A digest holds every channel's mean and its largest distance from it, on one grid: each key lies within
// mean +- radius, so no score exceeds q . mean + |q| . radius (Quest, arXiv 2406.10774, bounds by min and
// max). The bound alone ranks pages badly, because it grows with the spread of channels that the query hardly
// uses; the mean alone overlooks single tokens. The estimate goes half of the way: of 256 pages of the tiny
// model's text, 32 chosen so miss .41 of the mass (by the mean .40, by the bound .46, by their true mass
// .29), and where one token matters (layer 2 on pass keys) .33 (.61, .32, .14). Eight bits per number: bf16
// would double the bytes and the time to read them. The bytes are the library's own business and never leave
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

// For every query: log2 of the estimated sum of exp2(score) over the section, at out[i * stride]. Finite.
void score_digest(const uint8_t* digest, SectionShape shape, std::span<const DigestQuery> queries,
                  size_t stride, float* out);

}  // namespace quire
