// The bytes of digests: discs that hold their keys, by f64, and no larger than they need be; the same bytes
// from every table.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/digest.h"
#include "tests/quant/inputs.h"
#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

struct Keys {
  std::string name;
  SectionShape shape;
  std::vector<float> values;  // [tokens][dim]
};

std::vector<uint8_t> digest_of(const Keys& keys, const Kernels& kernels) {
  std::vector<uint8_t> digest(digest_bytes(keys.shape), 0x5A);
  kernels.make_digest(keys.values.data(), keys.shape, digest.data());
  return digest;
}

// Of each channel one float, half way between two steps of the grid where there is such a float.
Keys ties(SectionShape shape) {
  Keys keys{"ties", shape, std::vector<float>(size_t{shape.tokens} * shape.dim, 0.0F)};
  keys.values[0] = 1.0F;  // the longest pair
  const float steps = 1 / digest_grid(digest_of(keys, *find_kernels(Isa::kScalar)).data());
  for (size_t i = 0; i < keys.values.size(); ++i) {
    const size_t channel = i % shape.dim;
    if (channel % (shape.dim / 2) == 0) continue;
    const float wanted = static_cast<float>(channel % 80) + 0.5F;
    float key = wanted / steps;
    while (key * steps < wanted) key = std::nextafter(key, 2.0F);
    while (key * steps > wanted) key = std::nextafter(key, 0.0F);
    keys.values[i] = channel % 3 == 0 ? -key : key;
  }
  return keys;
}

// Normal keys from where they are subnormal to where their squares are no floats.
Keys scaled(SectionShape shape, int exponent) {
  Keys keys{"times 2^" + std::to_string(exponent), shape,
            normal_values(size_t{shape.tokens} * shape.dim, static_cast<uint64_t>(exponent + 200))};
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (float& key : keys.values) key = std::clamp(std::ldexp(key, exponent), -kLargest, kLargest);
  return keys;
}

std::vector<Keys> all_keys(SectionShape shape) {
  std::vector<Keys> all{ties(shape)};
  for (const InputKind& kind : kInputKinds)
    all.push_back({std::string(kind.name), shape, kind.make(shape, 11)});
  for (const int exponent :
       {-148, -130, -122, -113, -101, -100, -33, -32, -31, -30, -10, 10, 57, 58, 59, 60, 120, 127}) {
    all.push_back(scaled(shape, exponent));
  }
  return all;
}

struct Point {
  double x;
  double y;
};

// A pair of channels of one token, in steps of the grid.
Point key_at(const Keys& keys, double grid, uint32_t token, uint32_t pair) {
  const float* row = keys.values.data() + size_t{token} * keys.shape.dim;
  return {static_cast<double>(row[pair]) / grid, static_cast<double>(row[keys.shape.dim / 2 + pair]) / grid};
}

struct Disc {
  Point mean;
  double radius;
};

Disc disc_at(const Keys& keys, const std::vector<uint8_t>& digest, uint32_t block, uint32_t pair) {
  const DigestBlock bytes = digest_block(digest.data(), keys.shape.dim, block);
  const auto mean = [&](uint32_t channel) {
    return static_cast<double>(static_cast<int8_t>(bytes.mean[channel]));
  };
  return {{mean(pair), mean(keys.shape.dim / 2 + pair)}, static_cast<double>(bytes.radius[pair])};
}

// What f64 makes of a block's keys.
Disc true_disc(const Keys& keys, double grid, uint32_t block, uint32_t pair, Point around) {
  Disc disc{{0, 0}, 0};
  for (uint32_t t = 16 * block; t < 16 * (block + 1); ++t) {
    const Point key = key_at(keys, grid, t, pair);
    disc.mean.x += key.x / 16;
    disc.mean.y += key.y / 16;
    disc.radius = std::max(disc.radius, std::hypot(key.x - around.x, key.y - around.y));
  }
  return disc;
}

// The bounds that score_bound rests on, without a margin.
void check_discs(const Keys& keys, const std::vector<uint8_t>& digest) {
  const auto grid = static_cast<double>(digest_grid(digest.data()));
  ASSERT_GT(grid, 0);
  double longest = 0;
  for (uint32_t block = 0; block < keys.shape.tokens / 16; ++block) {
    for (uint32_t pair = 0; pair < keys.shape.dim / 2; ++pair) {
      const Disc got = disc_at(keys, digest, block, pair);
      const Disc truth = true_disc(keys, grid, block, pair, got.mean);
      ASSERT_LE(truth.radius, got.radius) << "block " << block << " pair " << pair;
      ASSERT_LE(got.radius, truth.radius + 1.001) << "block " << block << " pair " << pair;
      ASSERT_NEAR(got.mean.x, truth.mean.x, 0.501) << "block " << block << " pair " << pair;
      ASSERT_NEAR(got.mean.y, truth.mean.y, 0.501) << "block " << block << " pair " << pair;
      for (uint32_t t = 16 * block; t < 16 * (block + 1); ++t) {
        const Point key = key_at(keys, grid, t, pair);
        longest = std::max(longest, std::hypot(key.x, key.y));
      }
    }
  }
  EXPECT_LE(longest, 127);
  if (grid > 0x1p-120) {
    EXPECT_GE(longest, 127 * (1 - 2e-6));
  }
}

TEST(DigestBytes, DiscsHoldTheirKeysAndNoMore) {
  for (const SectionShape shape : {SectionShape{32, 32}, SectionShape{64, 128}, SectionShape{128, 256}}) {
    for (const Keys& keys : all_keys(shape)) {
      SCOPED_TRACE(keys.name + ", " + shape_name(shape));
      check_discs(keys, digest_of(keys, *find_kernels(Isa::kScalar)));
    }
  }
}

TEST(DigestBytes, MeansHalfWayAreEven) {
  constexpr SectionShape kShape{32, 256};
  const Keys keys = ties(kShape);
  const std::vector<uint8_t> digest = digest_of(keys, *find_kernels(Isa::kScalar));
  const float steps = 1 / digest_grid(digest.data());
  uint32_t half_way = 0;
  for (uint32_t channel = 0; channel < kShape.dim; ++channel) {
    const float place = keys.values[size_t{16} * kShape.dim + channel] * steps;
    if (std::abs(place) - std::floor(std::abs(place)) != 0.5F) continue;
    ++half_way;
    const int mean = static_cast<int8_t>(digest_block(digest.data(), kShape.dim, 1).mean[channel]);
    EXPECT_EQ(mean % 2, 0) << "channel " << channel;
    EXPECT_EQ(std::abs(static_cast<float>(mean) - place), 0.5F) << "channel " << channel;
  }
  EXPECT_GT(half_way, 100U);
}

class MadeDigests : public PerIsa {};

TEST_P(MadeDigests, EveryTableMakesTheBytesOfThePlainCode) {
  uint64_t digests = 0;
  for (const SectionShape shape : all_shapes()) {
    for (const Keys& keys : all_keys(shape)) {
      std::vector<uint8_t> plain(digest_bytes(shape));
      make_digest(keys.values.data(), shape, plain.data());
      ASSERT_EQ(digest_of(keys, kernels()), plain) << keys.name << ", " << shape_name(shape);
      ++digests;
    }
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(digests));
}

INSTANTIATE_TEST_SUITE_P(Isa, MadeDigests, testing::ValuesIn(kIsas), isa_test_name);

}  // namespace
}  // namespace quire::test
