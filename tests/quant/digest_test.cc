// Digests against f64: no key scores above the bound, and the estimate is what its definition says.
#include "quant/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tests/quant/section.h"

namespace quire {
namespace {

struct Case {
  SectionShape shape;
  std::vector<float> keys;     // [tokens][dim]
  std::vector<float> queries;  // [count][dim]
};

constexpr uint32_t kQueries = 8;

std::vector<float> normal_rows(std::mt19937& random, size_t count, float scale) {
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = scale * normal(random);
  return out;
}

Case random_case(std::mt19937& random) {
  constexpr uint32_t kTokens[] = {32, 64, 128};
  const SectionShape shape{kTokens[random() % 3], 32 * (1 + static_cast<uint32_t>(random() % 8))};
  const float scale = std::exp2(static_cast<float>(random() % 60) - 30);
  Case c{shape, normal_rows(random, size_t{shape.tokens} * shape.dim, scale),
         normal_rows(random, size_t{kQueries} * shape.dim, 1)};
  for (uint32_t channel = 0; channel < shape.dim; ++channel) {
    const float shift = random() % 4 == 0 ? 20 * scale : 0;  // outlier channels
    for (uint32_t t = 0; t < shape.tokens; ++t) c.keys[size_t{t} * shape.dim + channel] += shift;
  }
  return c;
}

double dot(const float* a, const float* b, uint32_t dim) {
  double sum = 0;
  for (uint32_t i = 0; i < dim; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// Queries that put everything on the bound's weak spots: rows of keys, signs of the extremes, one channel.
void add_adversaries(Case* c) {
  const uint32_t dim = c->shape.dim;
  for (uint32_t q = 0; q < 4; ++q) {
    float* row = c->queries.data() + size_t{q} * dim;
    const float* key = c->keys.data() + size_t{q} * 7 % c->shape.tokens * dim;
    for (uint32_t i = 0; i < dim; ++i) {
      if (q == 0) row[i] = key[i] / (1 + std::abs(key[i]));
      if (q == 1) row[i] = std::copysign(1.0F, key[i]);
      if (q == 2) row[i] = i == 5 ? 3.0F : 0.0F;
      if (q == 3) row[i] = std::ldexp(std::copysign(1.0F, key[i]), -static_cast<int>(i % 40));
    }
  }
}

uint64_t check_bound(const Case& c) {
  std::vector<uint8_t> digest(digest_bytes(c.shape));
  make_digest(c.keys.data(), c.shape, digest.data());
  uint64_t checked = 0;
  for (size_t q = 0; q < c.queries.size() / c.shape.dim; ++q) {
    const float* row = c.queries.data() + q * c.shape.dim;
    DigestQuery query;
    make_digest_query(row, c.shape.dim, &query);
    const auto bound = static_cast<double>(score_bound(digest.data(), c.shape, query));
    for (uint32_t t = 0; t < c.shape.tokens; ++t, ++checked) {
      const double score = dot(row, c.keys.data() + size_t{t} * c.shape.dim, c.shape.dim);
      EXPECT_GE(bound, score) << "query " << q << " token " << t << " dim " << c.shape.dim;
    }
  }
  return checked;
}

TEST(Digest, BoundIsNeverBelowAScore) {
  uint64_t scores = 0;
  constexpr uint32_t kSeeds = 150;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    std::mt19937 random(seed);
    Case c = random_case(random);
    scores += check_bound(c);
    add_adversaries(&c);
    scores += check_bound(c);
  }
  std::printf("[counts] cases=%llu seeds=%u\n", static_cast<unsigned long long>(scores), kSeeds);
}

TEST(Digest, BoundHoldsAtTheEdges) {
  const SectionShape shape{32, 64};
  const size_t size = size_t{shape.tokens} * shape.dim;
  const std::vector<float> ones(shape.dim, 1.0F);
  for (const float value : {0.0F, 1e-45F, -1e-38F, 1e-36F, 1.0F, -3.0F, 0x1p96F, -0x1p96F}) {
    Case c{shape, std::vector<float>(size, value), ones};
    check_bound(c);
    c.keys[77] = -value;  // one token away from the others
    check_bound(c);
    for (const float q : {0.0F, 1e-45F, -1e-30F, 1e6F}) {
      std::fill(c.queries.begin(), c.queries.end(), q);
      check_bound(c);
    }
  }
}

TEST(Digest, BoundHoldsForKeysWhoseSquaresAreNoFloats) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Case c = random_case(random);
    const float largest =
        std::abs(*std::ranges::max_element(c.keys, {}, [](float x) { return std::abs(x); }));
    for (float& key : c.keys) key = key / largest * (seed % 2 == 0 ? 3e38F : 1e-38F);
    for (float& q : c.queries) q *= seed % 2 == 0 ? 1e-4F : 1e4F;
    check_bound(c);
  }
}

TEST(Digest, BoundIsTightForEqualKeys) {
  const SectionShape shape{64, 128};
  std::mt19937 random(3);
  const std::vector<float> row = normal_rows(random, shape.dim, 1);
  std::vector<float> keys;
  for (uint32_t t = 0; t < shape.tokens; ++t) keys.insert(keys.end(), row.begin(), row.end());
  std::vector<uint8_t> digest(digest_bytes(shape));
  make_digest(keys.data(), shape, digest.data());
  DigestQuery query;
  make_digest_query(row.data(), shape.dim, &query);
  const double score = dot(row.data(), row.data(), shape.dim);
  EXPECT_LT(static_cast<double>(score_bound(digest.data(), shape, query)), 1.05 * score);
}

// Of one block's 16 keys: q . mean, and the largest distances of the pairs from it times the query's.
struct BlockTruth {
  double mean = 0;
  double reach = 0;
};

BlockTruth block_truth(const float* keys, const float* q, uint32_t dim) {
  BlockTruth out;
  const uint32_t pairs = dim / 2;
  for (uint32_t p = 0; p < pairs; ++p) {
    double x = 0;
    double y = 0;
    for (uint32_t t = 0; t < 16; ++t) {
      x += static_cast<double>(keys[t * dim + p]) / 16;
      y += static_cast<double>(keys[t * dim + pairs + p]) / 16;
    }
    double radius = 0;
    for (uint32_t t = 0; t < 16; ++t) {
      radius = std::max(radius, std::hypot(static_cast<double>(keys[t * dim + p]) - x,
                                           static_cast<double>(keys[t * dim + pairs + p]) - y));
    }
    const auto q_x = static_cast<double>(q[p]);
    const auto q_y = static_cast<double>(q[pairs + p]);
    out.mean += q_x * x + q_y * y;
    out.reach += std::hypot(q_x, q_y) * radius;
  }
  return out;
}

TEST(Digest, EstimatesAddUpBlocksAndTakeTheHighestBound) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const SectionShape shape{32U << seed % 3, 128};
    Case c{shape, normal_rows(random, size_t{shape.tokens} * 128, 2), normal_rows(random, 128, 0.1F)};
    // A key that stands alone, somewhere.
    float* key = c.keys.data() + random() % shape.tokens * shape.dim;
    for (uint32_t i = 0; i < shape.dim; ++i) key[i] += 20 * c.queries[i];
    double mass = 0;
    double peak = -INFINITY;
    for (uint32_t t = 0; t < shape.tokens; t += 16) {
      const BlockTruth block =
          block_truth(c.keys.data() + size_t{t} * shape.dim, c.queries.data(), shape.dim);
      mass += std::exp2(block.mean + 0.3125 * block.reach + std::log2(16.0));
      peak = std::max(peak, block.mean + block.reach);
    }
    std::vector<uint8_t> digest(digest_bytes(shape));
    make_digest(c.keys.data(), shape, digest.data());
    DigestQuery query;
    make_digest_query(c.queries.data(), shape.dim, &query);
    float got_mass = 0;
    float got_peak = 0;
    const uint8_t* const at = digest.data();
    score_digests({&at, 1}, shape, {&query, 1}, 1, &got_mass, &got_peak);
    const float bound = score_bound(digest.data(), shape, query);
    EXPECT_NEAR(got_peak, bound, 0.001F * std::abs(bound));
    // A step of the grid is a 127th of the longest pair; rounding a radius upwards adds one at most.
    // A sum of two may be .11 too small.
    EXPECT_NEAR(static_cast<double>(got_mass), std::log2(mass), 0.3 + 0.11 * (shape.tokens / 16 - 1));
    EXPECT_NEAR(static_cast<double>(got_peak), peak, 0.6);
  }
}

TEST(Digest, EstimatesAreFinite) {
  const SectionShape shape{32, 64};
  for (const float key : {0.0F, 3e38F, -3e38F}) {
    for (const float q : {0.0F, 3e38F, -3e38F}) {
      std::vector<float> keys(size_t{shape.tokens} * shape.dim, key);
      for (size_t i = 0; i < keys.size(); i += 2) keys[i] = -key;  // sums of 0
      const std::vector<float> queries(shape.dim, q);
      std::vector<uint8_t> digest(digest_bytes(shape));
      make_digest(keys.data(), shape, digest.data());
      DigestQuery query;
      make_digest_query(queries.data(), shape.dim, &query);
      float mass = 0;
      float peak = 0;
      const uint8_t* const at = digest.data();
      score_digests({&at, 1}, shape, {&query, 1}, 1, &mass, &peak);
      EXPECT_TRUE(std::isfinite(mass)) << key << " " << q;
      EXPECT_TRUE(std::isfinite(peak)) << key << " " << q;
    }
  }
}

class Digests : public test::PerIsa {};

// The plain code is checked above.
TEST_P(Digests, EveryTableEstimatesWhatThePlainCodeDoes) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const Case c = random_case(random);
    const size_t dim = c.shape.dim;
    const size_t count = 1 + random() % 21;
    std::vector<uint8_t> bytes(count * digest_bytes(c.shape));
    std::vector<const uint8_t*> digests;
    for (size_t p = 0; p < count; ++p) {
      std::vector<float> keys = c.keys;
      // Few of many: the page's own, none at all, and numbers at the ends of the grid.
      for (float& key : keys) key *= p % 3 == 1 ? 0.0F : static_cast<float>(p + 1);
      if (p % 4 == 3) std::fill(keys.begin(), keys.end(), p % 8 == 3 ? 7.0F : -7.0F);
      uint8_t* digest = bytes.data() + p * digest_bytes(c.shape);
      make_digest(keys.data(), c.shape, digest);
      digests.push_back(digest);
    }
    std::vector<DigestQuery> queries(1 + random() % 9);
    for (size_t i = 0; i < queries.size(); ++i) {
      std::vector<float> q(c.queries.begin() + static_cast<ptrdiff_t>(i % kQueries * dim),
                           c.queries.begin() + static_cast<ptrdiff_t>((i % kQueries + 1) * dim));
      if (i == 8) std::fill(q.begin(), q.end(), -2.0F);  // the largest whole numbers
      make_digest_query(q.data(), c.shape.dim, &queries[i]);
    }
    const size_t stride = count + 3;
    std::vector<float> plain[2];
    std::vector<float> got[2];
    for (auto* out : {plain, got}) {
      for (int k = 0; k < 2; ++k) out[k].assign(queries.size() * stride, -1.0F);
    }
    score_digests(digests, c.shape, queries, stride, plain[0].data(), plain[1].data());
    kernels().score_digests(digests, c.shape, queries, stride, got[0].data(), got[1].data());
    EXPECT_EQ(plain[0], got[0]) << "seed " << seed;
    EXPECT_EQ(plain[1], got[1]) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Digests, testing::ValuesIn(test::kIsas), test::isa_test_name);

}  // namespace
}  // namespace quire
