#include "quant/digest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace quire {
namespace {

constexpr double kMeanSteps = 127;
// 14 bits: sums over 256 channels stay below 2^31.
constexpr double kQuerySteps = 16383;

float up(double x) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  if (x >= static_cast<double>(kLargest)) return kLargest;
  return std::nextafter(static_cast<float>(std::max(x, -static_cast<double>(kLargest))), kLargest);
}

DigestDots dot_digest(const DigestView& digest, uint32_t dim, const DigestQuery& query) {
  DigestDots dots;
  for (uint32_t c = 0; c < dim; ++c) {
    dots.mean += int32_t{query.q[c]} * digest.mean[c];
    dots.radius += int32_t{query.magnitude[c]} * digest.radius[c];
  }
  return dots;
}

}  // namespace

void make_digest(const float* keys, SectionShape shape, uint8_t* digest) {
  std::array<float, 256> low;
  std::array<float, 256> high;
  std::array<double, 256> sum{};
  std::copy_n(keys, shape.dim, low.data());
  std::copy_n(keys, shape.dim, high.data());
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const float* row = keys + size_t{t} * shape.dim;
    for (uint32_t c = 0; c < shape.dim; ++c) {
      low[c] = std::min(low[c], row[c]);
      high[c] = std::max(high[c], row[c]);
      sum[c] += static_cast<double>(row[c]);
    }
  }
  float largest = 0;
  for (uint32_t c = 0; c < shape.dim; ++c) largest = std::max({largest, -low[c], high[c]});
  const float grid = largest == 0 ? 0 : up(static_cast<double>(largest) / kMeanSteps);
  const double steps = grid == 0 ? 0 : 1 / static_cast<double>(grid);
  auto* mean = reinterpret_cast<int8_t*>(digest + 8);
  uint8_t* radius = digest + 8 + shape.dim;
  double magnitude = 0;
  for (uint32_t c = 0; c < shape.dim; ++c) {
    const double from = static_cast<double>(low[c]) * steps;
    const double to = static_cast<double>(high[c]) * steps;
    const double middle = std::nearbyint(sum[c] / shape.tokens * steps);
    // The small addend stands for the rounding of the products.
    const double reach = std::ceil(std::max(to - middle, middle - from) + 1e-9);
    mean[c] = static_cast<int8_t>(middle);
    radius[c] = static_cast<uint8_t>(largest == 0 ? 0 : reach);
    magnitude += std::abs(middle) + radius[c];
  }
  const float total = up(magnitude * static_cast<double>(grid));
  std::memcpy(digest, &grid, sizeof grid);
  std::memcpy(digest + 4, &total, sizeof total);
}

void make_digest_query(const float* q, uint32_t dim, DigestQuery* out) {
  float largest = 0;
  for (uint32_t c = 0; c < dim; ++c) largest = std::max(largest, std::abs(q[c]));
  out->scale = static_cast<float>(static_cast<double>(largest) / kQuerySteps);
  const double steps = out->scale == 0 ? 0 : 1 / static_cast<double>(out->scale);
  double error = 0;
  for (uint32_t c = 0; c < dim; ++c) {
    const double x = std::nearbyint(static_cast<double>(q[c]) * steps);
    out->q[c] = static_cast<int16_t>(x);
    out->magnitude[c] = static_cast<int16_t>(std::abs(x));
    error = std::max(error, std::abs(static_cast<double>(q[c]) - x * static_cast<double>(out->scale)));
  }
  out->error = up(error);
}

float score_bound(const uint8_t* digest, uint32_t dim, const DigestQuery& query) {
  const DigestView view = view_digest(digest, dim);
  const DigestDots dots = dot_digest(view, dim, query);
  const double unit = static_cast<double>(view.grid) * static_cast<double>(query.scale);
  const double dot = static_cast<double>(dots.mean) + static_cast<double>(dots.radius);
  return up(unit * dot + static_cast<double>(query.error) * static_cast<double>(view.magnitude));
}

void score_digests(std::span<const uint8_t* const> digests, SectionShape shape,
                   std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak) {
  const float tokens = digest_tokens(shape);
  for (size_t p = 0; p < digests.size(); ++p) {
    const DigestView view = view_digest(digests[p], shape.dim);
    for (size_t i = 0; i < queries.size(); ++i) {
      const DigestDots dots = dot_digest(view, shape.dim, queries[i]);
      estimate(view, queries[i], dots, tokens, mass + i * stride + p, peak + i * stride + p);
    }
  }
}

}  // namespace quire
