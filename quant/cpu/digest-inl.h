// Queries against digests: what quant/digest.cc computes, bit for bit, because the sums are of integers.
// Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"
#include "quant/digest.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Vectors of at most 256 bits, whose sums native_x86-inl.h adds up several at a time.
using SumTag = hn::CappedTag<int32_t, 8>;
using QueryTag = hn::Repartition<int16_t, SumTag>;
inline constexpr uint32_t kWordLanes = HWY_MIN(HWY_MAX_BYTES, 32) / sizeof(int16_t);

// A sum of products of pairs, in two parts where instructions give the lower and the upper ones apart.
struct PairSum {
  hn::Vec<SumTag> low;
  hn::Vec<SumTag> high;
  HWY_INLINE void clear() { low = high = hn::Zero(SumTag()); }
  HWY_INLINE void add(const int16_t* a, hn::Vec<QueryTag> b) {
    low = hn::ReorderWidenMulAccumulate(SumTag(), hn::LoadU(QueryTag(), a), b, low, high);
  }
  HWY_INLINE PartialSums folded() const { return hn::Add(low, high).raw; }
};

template <class Byte>
HWY_INLINE hn::Vec<QueryTag> load_words(const uint8_t* from) {
  const auto bytes = hn::LoadU(hn::Rebind<Byte, QueryTag>(), reinterpret_cast<const Byte*>(from));
  return hn::PromoteTo(QueryTag(), bytes);
}

// dots: of the queries, q . mean of each and then the sums of |q_pair| radius of each.
template <int kQueries>
HWY_INLINE void dot_block(const DigestBlock& block, uint32_t dim, const DigestQuery* queries, int32_t* dots) {
  const uint32_t pairs = dim / 2;
  PairSum mean[kQueries];
  PairSum reach[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    mean[i].clear();
    reach[i].clear();
  }
  for (uint32_t p = 0; p < pairs; p += kWordLanes) {
    const auto lower = load_words<int8_t>(block.mean + p);
    const auto upper = load_words<int8_t>(block.mean + pairs + p);
    const auto radius = load_words<uint8_t>(block.radius + p);
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
      mean[i].add(queries[i].q.data() + p, lower);
      mean[i].add(queries[i].q.data() + pairs + p, upper);
      reach[i].add(queries[i].norm.data() + p, radius);
    }
  }
  PartialSums sums[2 * kQueries];
#pragma GCC unroll 4
  for (int i = 0; i < kQueries; ++i) {
    sums[i] = mean[i].folded();
    sums[kQueries + i] = reach[i].folded();
  }
  store(sum_rows<2 * kQueries>(sums), dots);
}

// DigestScore of several queries.
template <int kQueries>
struct DigestScores {
  using SumsTag = hn::FixedTag<int32_t, kQueries>;
  using MassTag = hn::FixedTag<float, kQueries>;
  hn::Vec<MassTag> unit;
  hn::Vec<MassTag> mass;
  hn::Vec<SumsTag> peak;

  HWY_INLINE void add(uint32_t block, const int32_t* dots) {
    const auto mean = hn::LoadU(SumsTag(), dots);
    const auto reach = hn::LoadU(SumsTag(), dots + kQueries);
    const auto spread = hn::Add(hn::ShiftRight<2>(reach), hn::ShiftRight<4>(reach));
    const auto here = hn::Mul(unit, hn::ConvertTo(MassTag(), hn::Add(mean, spread)));
    const auto high = hn::Add(mean, reach);
    mass = block == 0 ? here : add_mass(mass, here);
    peak = block == 0 ? high : hn::Max(peak, high);
  }
  static HWY_INLINE hn::Vec<MassTag> add_mass(hn::Vec<MassTag> a, hn::Vec<MassTag> b) {
    const MassTag d;
    const auto distance = hn::Mul(hn::Set(d, 0.25F), hn::Abs(hn::Sub(a, b)));
    const auto near = hn::Max(hn::Zero(d), hn::Sub(hn::Set(d, 1.0F), distance));
    return hn::Add(hn::Max(a, b), hn::Mul(near, near));
  }
};

template <int kQueries>
HWY_INLINE void score_digest(const uint8_t* digest, SectionShape shape, const DigestQuery* queries,
                             size_t stride, float* mass, float* peak) {
  using Scores = DigestScores<kQueries>;
  const typename Scores::MassTag d;
  const float grid = digest_grid(digest);
  float lanes[2][kQueries];
  for (int i = 0; i < kQueries; ++i) lanes[0][i] = digest_unit(grid, queries[i].scale);
  Scores scores;
  scores.unit = hn::LoadU(d, lanes[0]);
  scores.mass = hn::Zero(d);
  scores.peak = hn::Zero(typename Scores::SumsTag());
  for (uint32_t b = 0; b < digest_blocks(shape); ++b) {
    alignas(64) int32_t dots[kLanes];
    dot_block<kQueries>(digest_block(digest, shape.dim, b), shape.dim, queries, dots);
    scores.add(b, dots);
  }
  hn::StoreU(hn::Add(scores.mass, hn::Set(d, kDigestBlockMass)), d, lanes[0]);
  hn::StoreU(hn::Mul(scores.unit, hn::ConvertTo(d, scores.peak)), d, lanes[1]);
  for (int i = 0; i < kQueries; ++i) {
    mass[static_cast<size_t>(i) * stride] = lanes[0][i];
    peak[static_cast<size_t>(i) * stride] = lanes[1][i];
  }
}

inline void score_digests(std::span<const uint8_t* const> digests, SectionShape shape,
                          std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak) {
  constexpr size_t kAhead = 4;  // digests lie apart: they come from memory while others are computed
  for (size_t p = 0; p < digests.size(); ++p) {
    if (p + kAhead < digests.size()) {
      for (size_t at = 0; at < digest_bytes(shape); at += 64) prefetch(digests[p + kAhead] + at);
    }
    const uint8_t* digest = digests[p];
    for (size_t i = 0; i < queries.size();) {
      const size_t left = queries.size() - i;
      const DigestQuery* first = queries.data() + i;
      float* const mass_at = mass + i * stride + p;
      float* const peak_at = peak + i * stride + p;
      if (left >= 4) score_digest<4>(digest, shape, first, stride, mass_at, peak_at);
      if (left == 2 || left == 3) score_digest<2>(digest, shape, first, stride, mass_at, peak_at);
      if (left == 1) score_digest<1>(digest, shape, first, stride, mass_at, peak_at);
      i += left >= 4 ? 4 : left >= 2 ? 2 : 1;
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
