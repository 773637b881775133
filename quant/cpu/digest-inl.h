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
  HWY_INLINE void add(hn::Vec<QueryTag> a, hn::Vec<QueryTag> b) {
    low = hn::ReorderWidenMulAccumulate(SumTag(), a, b, low, high);
  }
  HWY_INLINE PartialSums folded() const { return hn::Add(low, high).raw; }
};

// dots: of the queries, q . mean of each and then |q| . radius of each.
template <int kQueries>
HWY_INLINE void dot_digest(const DigestView& digest, uint32_t dim, const DigestQuery* queries,
                           int32_t* dots) {
  PairSum mean[kQueries];
  PairSum radius[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    mean[i].clear();
    radius[i].clear();
  }
  for (uint32_t c = 0; c < dim; c += kWordLanes) {
    const auto means = hn::PromoteTo(QueryTag(), hn::LoadU(hn::Rebind<int8_t, QueryTag>(), digest.mean + c));
    const auto radii =
        hn::PromoteTo(QueryTag(), hn::LoadU(hn::Rebind<uint8_t, QueryTag>(), digest.radius + c));
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
      mean[i].add(hn::LoadU(QueryTag(), queries[i].q.data() + c), means);
      radius[i].add(hn::LoadU(QueryTag(), queries[i].magnitude.data() + c), radii);
    }
  }
  PartialSums sums[2 * kQueries];
#pragma GCC unroll 4
  for (int i = 0; i < kQueries; ++i) {
    sums[i] = mean[i].folded();
    sums[kQueries + i] = radius[i].folded();
  }
  store(sum_rows<2 * kQueries>(sums), dots);
}

template <int kQueries>
HWY_INLINE void score_digest(const DigestView& digest, uint32_t dim, const DigestQuery* queries, float tokens,
                             size_t stride, float* mass, float* peak) {
  alignas(64) int32_t dots[kLanes];
  dot_digest<kQueries>(digest, dim, queries, dots);
#pragma GCC unroll 4
  for (int i = 0; i < kQueries; ++i) {
    const size_t at = static_cast<size_t>(i) * stride;
    estimate(digest, queries[i], {dots[i], dots[kQueries + i]}, tokens, mass + at, peak + at);
  }
}

inline void score_digests(std::span<const uint8_t* const> digests, SectionShape shape,
                          std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak) {
  constexpr size_t kAhead = 8;  // digests lie apart: they come from memory while others are computed
  const float tokens = digest_tokens(shape);
  for (size_t p = 0; p < digests.size(); ++p) {
    if (p + kAhead < digests.size()) {
      for (size_t at = 0; at < digest_bytes(shape); at += 64) prefetch(digests[p + kAhead] + at);
    }
    const DigestView digest = view_digest(digests[p], shape.dim);
    for (size_t i = 0; i < queries.size();) {
      const size_t left = queries.size() - i;
      const DigestQuery* first = queries.data() + i;
      float* const mass_at = mass + i * stride + p;
      float* const peak_at = peak + i * stride + p;
      if (left >= 4) score_digest<4>(digest, shape.dim, first, tokens, stride, mass_at, peak_at);
      if (left == 2 || left == 3) score_digest<2>(digest, shape.dim, first, tokens, stride, mass_at, peak_at);
      if (left == 1) score_digest<1>(digest, shape.dim, first, tokens, stride, mass_at, peak_at);
      i += left >= 4 ? 4 : left >= 2 ? 2 : 1;
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
