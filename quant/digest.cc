#include "quant/digest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/section_exponent.h"

namespace quire {
namespace {

// 14 bits: sums over 256 channels stay below 2^31.
constexpr double kQuerySteps = 16383;

float up(double x) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  if (x >= static_cast<double>(kLargest)) return kLargest;
  return std::nextafter(static_cast<float>(std::max(x, -static_cast<double>(kLargest))), kLargest);
}

template <typename T>
T squared(T x, T y) {
  return x * x + y * y;
}

float grid_of(const float* keys, SectionShape shape) {
  const uint32_t pairs = shape.dim / 2;
  float largest = 0;
  for (size_t i = 0; i < size_t{shape.tokens} * shape.dim; ++i) {
    largest = std::max(largest, std::abs(keys[i]));
  }
  const int exponent = section_exponent(largest);
  const float down = power_of_two(-exponent);
  float longest = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const float* row = keys + size_t{t} * shape.dim;
    for (uint32_t p = 0; p < pairs; ++p) {
      longest = std::max(longest, squared(row[p] * down, row[pairs + p] * down));
    }
  }
  return digest_grid_for(std::sqrt(longest), exponent);
}

// keys: [kDigestBlockTokens][dim]. steps: of the grid, per unit of the keys.
void make_block(const float* keys, uint32_t dim, float steps, uint8_t* block) {
  const uint32_t pairs = dim / 2;
  std::array<float, 256> middle{};
  std::array<float, 128> farthest{};
  for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
    for (uint32_t c = 0; c < dim; ++c) middle[c] += keys[size_t{t} * dim + c] * steps;
  }
  for (uint32_t c = 0; c < dim; ++c) {
    middle[c] = std::nearbyint(middle[c] * kDigestMeanShare);
    block[c] = static_cast<uint8_t>(static_cast<int8_t>(middle[c]));
  }
  for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
    const float* row = keys + size_t{t} * dim;
    for (uint32_t p = 0; p < pairs; ++p) {
      const float x = row[p] * steps - middle[p];
      const float y = row[pairs + p] * steps - middle[pairs + p];
      farthest[p] = std::max(farthest[p], squared(x, y));
    }
  }
  for (uint32_t p = 0; p < pairs; ++p) {
    block[dim + p] = static_cast<uint8_t>(std::ceil(std::sqrt(farthest[p]) + kDigestRounding));
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
  const float grid = grid_of(keys, shape);
  std::memcpy(digest, &grid, sizeof grid);
  for (uint32_t b = 0; b < digest_blocks(shape); ++b) {
    make_block(keys + size_t{b} * kDigestBlockTokens * shape.dim, shape.dim, 1 / grid,
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
    out->norm[p] =
        static_cast<int16_t>(std::ceil(std::sqrt(squared<double>(out->q[p], out->q[dim / 2 + p]))));
  }
}

float score_bound(const uint8_t* digest, SectionShape shape, const DigestQuery& query) {
  const auto grid = static_cast<double>(digest_grid(digest));
  const double dot = score_digest(digest, shape, query).peak;
  // What the query's rounding may hide: no channel of a key is above 127 steps.
  const double hidden = double{kDigestMeanSteps} * shape.dim * static_cast<double>(query.error);
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
