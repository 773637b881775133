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

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "quant/codec.h"

namespace quire {

// f32 grid and f32 sum of the channels' largest magnitudes, then i8 mean and u8 radius of every channel.
constexpr size_t digest_bytes(SectionShape shape) { return 8 + size_t{2} * shape.dim; }

// keys: [shape.tokens][shape.dim] f32, finite, in the space in which queries meet them. digest:
// digest_bytes(shape) bytes.
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

// For every query i and digest p, finite: at mass[i * stride + p] log2 of the estimated sum of exp2(score)
// over the section, at peak[i * stride + p] about the bound (score_bound is rounded with care). Plain code:
// Kernels::score_digests is for use.
void score_digests(std::span<const uint8_t* const> digests, SectionShape shape,
                   std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak);

// The parts of it, for the tables of instruction sets.
struct DigestView {
  float grid;
  float magnitude;  // sum over the channels of |mean| + radius, in units of the keys, rounded up
  const int8_t* mean;
  const uint8_t* radius;
};

// How far towards the bound the estimate of a page's mass goes: measured, see above.
inline constexpr float kDigestReach = 0.3F;
inline constexpr float kDigestLimit = 1e30F;  // of either estimate

struct DigestDots {
  int32_t mean = 0;    // q . mean
  int32_t radius = 0;  // |q| . radius
};

inline DigestView view_digest(const uint8_t* digest, uint32_t dim) {
  DigestView view{};
  std::memcpy(&view.grid, digest, sizeof view.grid);
  std::memcpy(&view.magnitude, digest + 4, sizeof view.magnitude);
  view.mean = reinterpret_cast<const int8_t*>(digest + 8);
  view.radius = digest + 8 + dim;
  return view;
}

// What a section's tokens add to the mean's mass.
inline float digest_tokens(SectionShape shape) { return std::log2(static_cast<float>(shape.tokens)); }

inline void estimate(const DigestView& digest, const DigestQuery& query, const DigestDots& dots, float tokens,
                     float* mass, float* peak) {
  const float unit = digest.grid * query.scale;
  const float mean = unit * static_cast<float>(dots.mean);
  const float reach = unit * static_cast<float>(dots.radius);
  *mass = std::clamp(mean + kDigestReach * reach + tokens, -kDigestLimit, kDigestLimit);
  *peak = std::clamp(mean + reach, -kDigestLimit, kDigestLimit);
}

}  // namespace quire
