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

double squared(double x, double y) { return x * x + y * y; }

// The norm of the longest pair.
double largest_norm(const float* keys, SectionShape shape) {
  const uint32_t pairs = shape.dim / 2;
  double largest = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const float* row = keys + size_t{t} * shape.dim;
    for (uint32_t p = 0; p < pairs; ++p) {
      largest = std::max(largest, squared(static_cast<double>(row[p]), static_cast<double>(row[pairs + p])));
    }
  }
  return std::sqrt(largest);
}

// keys: [kDigestBlockTokens][dim]. steps: of the grid, per unit of the keys.
void make_block(const float* keys, uint32_t dim, double steps, uint8_t* block) {
  const uint32_t pairs = dim / 2;
  std::array<double, 256> middle{};
  std::array<double, 128> farthest{};
  for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
    for (uint32_t c = 0; c < dim; ++c) middle[c] += static_cast<double>(keys[size_t{t} * dim + c]);
  }
  for (uint32_t c = 0; c < dim; ++c) {
    middle[c] = std::nearbyint(middle[c] / kDigestBlockTokens * steps);
    block[c] = static_cast<uint8_t>(static_cast<int8_t>(middle[c]));
  }
  for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
    const float* row = keys + size_t{t} * dim;
    for (uint32_t p = 0; p < pairs; ++p) {
      const double x = static_cast<double>(row[p]) * steps - middle[p];
      const double y = static_cast<double>(row[pairs + p]) * steps - middle[pairs + p];
      farthest[p] = std::max(farthest[p], squared(x, y));
    }
  }
  for (uint32_t p = 0; p < pairs; ++p) {
    // At most 2 * 127, and 1 for what rounding moves the middle. The small addend stands for the rounding of
    // the products.
    block[dim + p] = static_cast<uint8_t>(steps == 0 ? 0 : std::ceil(std::sqrt(farthest[p]) + 1e-9));
  }
}

DigestScore score_digest(const uint8_t* digest, SectionShape shape, const DigestQuery& query) {
  DigestScore score{digest_unit(digest_grid(digest), query.scale)};
  for (uint32_t b = 0; b < digest_blocks(shape); ++b) {
    const DigestBlock block = digest_block(digest, shape.dim, b);
    int32_t mean = 0;
    int32_t reach = 0;
    for (uint32_t c = 0; c < shape.dim; ++c) mean += int32_t{query.q[c]} * static_cast<int8_t>(block.mean[c]);
    for (uint32_t p = 0; p < shape.dim / 2; ++p) reach += int32_t{query.norm[p]} * block.radius[p];
    score.add(b, mean, reach);
  }
  return score;
}

}  // namespace

void make_digest(const float* keys, SectionShape shape, uint8_t* digest) {
  // Means are no longer than the longest pair, and no key is further from one than twice that.
  const double largest = largest_norm(keys, shape);
  const float grid = largest == 0 ? 0 : up(largest / kMeanSteps);
  const double steps = grid == 0 ? 0 : 1 / static_cast<double>(grid);
  std::memcpy(digest, &grid, sizeof grid);
  for (uint32_t b = 0; b < digest_blocks(shape); ++b) {
    make_block(keys + size_t{b} * kDigestBlockTokens * shape.dim, shape.dim, steps,
               digest + sizeof grid + b * digest_block_bytes(shape.dim));
  }
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
    error = std::max(error, std::abs(static_cast<double>(q[c]) - x * static_cast<double>(out->scale)));
  }
  out->error = up(error);
  for (uint32_t p = 0; p < dim / 2; ++p) {
    out->norm[p] = static_cast<int16_t>(std::ceil(std::sqrt(squared(out->q[p], out->q[dim / 2 + p]))));
  }
}

float score_bound(const uint8_t* digest, SectionShape shape, const DigestQuery& query) {
  const auto grid = static_cast<double>(digest_grid(digest));
  const double dot = score_digest(digest, shape, query).peak;
  // What the query's rounding may hide: no channel of a key is above 127 steps.
  const double hidden = kMeanSteps * shape.dim * static_cast<double>(query.error);
  return up(grid * (static_cast<double>(query.scale) * dot + hidden));
}

void score_digests(std::span<const uint8_t* const> digests, SectionShape shape,
                   std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak) {
  for (size_t p = 0; p < digests.size(); ++p) {
    for (size_t i = 0; i < queries.size(); ++i) {
      const DigestScore score = score_digest(digests[p], shape, queries[i]);
      mass[i * stride + p] = score.mass + kDigestBlockMass;
      peak[i * stride + p] = score.unit * static_cast<float>(score.peak);
    }
  }
}

}  // namespace quire
