// Levels against what is known of k-means: equal steps for a uniform density, the published levels of
// Gaussians brought to their range, and modes that only what queries read can choose between.
#include "bench/calibration/levels.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "bench/calibration/calibration.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/thread_pool.h"
#include "tests/bench/test_files.h"

namespace quire::bench {
namespace {

constexpr uint32_t kPage = 64;

qwen3::ModelConfig one_head(uint32_t dim) {
  qwen3::ModelConfig config{};
  config.layers = 1;
  config.query_heads = 1;
  config.kv_heads = 1;
  config.head_dim = dim;
  return config;
}

std::vector<int8_t> of_codec(const std::vector<qwen3::CodecLevels>& books, quire_codec codec) {
  for (const qwen3::CodecLevels& book : books) {
    if (book.codec == codec) return book.levels;
  }
  return {};
}

TEST(LevelHistogram, StepsEquallyThroughAUniformDensity) {
  for (const uint32_t bits : {1U, 2U, 3U, 4U}) {
    LevelHistogram histogram;
    for (int i = -12700; i <= 12700; ++i) histogram.add(static_cast<float>(i) / 100, 1);
    const std::vector<int8_t> levels = histogram.levels(bits);
    const double step = 254.0 / static_cast<double>(1U << bits);
    ASSERT_EQ(levels.size(), size_t{1} << bits);
    for (size_t i = 0; i < levels.size(); ++i) {
      EXPECT_NEAR(levels[i], -127 + step * (static_cast<double>(i) + 0.5), 1.01)
          << bits << " bits, level " << i;
    }
  }
}

TEST(LevelHistogram, StaysAscendingWhereThereIsOneValue) {
  for (const float value : {-127.0F, 0.0F, 127.0F, 400.0F}) {
    LevelHistogram histogram;
    histogram.add(value, 2);
    const std::vector<int8_t> levels = histogram.levels(4);
    ASSERT_EQ(levels.size(), 16U);
    for (size_t i = 1; i < levels.size(); ++i) EXPECT_LT(levels[i - 1], levels[i]);
    EXPECT_GE(levels.front(), -127);
    EXPECT_LE(levels.back(), 127);
  }
  EXPECT_TRUE(LevelHistogram().levels(4).empty());
}

// FORMATS.md has the k-means levels of Gaussians in groups of 64 and of 128.
TEST(LevelsObserver, FindsTheLevelsOfGaussians) {
  constexpr uint32_t kDim = 128;
  const qwen3::ModelConfig config = one_head(kDim);
  LevelsObserver observer(config, QUIRE_POST_ROPE, kPage);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> rows(size_t{3} * kDim * kPage);
  for (int page = 0; page < 60; ++page) {
    for (float& x : rows) x = normal(random);
    observer.on_qkv(0, rows);  // not the space that was asked for
    observer.on_rotated_qkv(0, rows);
  }
  const std::array<int, 4> keys{-84, -25, 25, 84};
  const std::array<int, 8> values{-105, -66, -37, -12, 12, 37, 66, 105};
  const std::vector<int8_t> of_keys = of_codec(observer.key_levels(0), QUIRE_CODEC_NUQ2);
  const std::vector<int8_t> of_values = of_codec(observer.value_levels(0), QUIRE_CODEC_NUQ3);
  ASSERT_EQ(of_keys.size(), keys.size());
  ASSERT_EQ(of_values.size(), values.size());
  for (size_t i = 0; i < keys.size(); ++i) EXPECT_NEAR(of_keys[i], keys[i], 2.5) << i;
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(of_values[i], values[i], 2.5) << i;
}

// Half of the channels lie at their range's ends and middle, half are uniform: queries see one half or the
// other.
TEST(LevelsObserver, WeighsChannelsByTheirQueries) {
  constexpr uint32_t kDim = 32;
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const bool of_modes : {true, false}) {
    const qwen3::ModelConfig config = one_head(kDim);
    LevelsObserver observer(config, QUIRE_PRE_ROPE, kPage);
    std::vector<float> rows(size_t{3} * kDim * kPage * 4);
    for (size_t t = 0; t < size_t{4} * kPage; ++t) {
      for (size_t c = 0; c < kDim; ++c) {
        const bool modes = c % 2 == 0;
        rows[(t * 3) * kDim + c] = modes == of_modes ? 1.0F : 0.0F;
        rows[(t * 3 + 1) * kDim + c] = modes ? static_cast<float>(t % 4 == 0   ? -1
                                                                  : t % 4 == 1 ? 1
                                                                  : t % 4 == 2 ? -0.125
                                                                               : 0.125)
                                             : uniform(random);
        rows[(t * 3 + 2) * kDim + c] = uniform(random);
      }
    }
    observer.on_qkv(0, rows);
    const std::vector<int8_t> levels = of_codec(observer.key_levels(0), QUIRE_CODEC_NUQ2);
    ASSERT_EQ(levels.size(), 4U);
    const std::array<double, 4> expected =
        of_modes ? std::array{-127.0, -16.0, 16.0, 127.0} : std::array{-95.0, -32.0, 32.0, 95.0};
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(levels[i], expected[i], of_modes ? 1.01 : 8) << of_modes << i;
  }
}

// One far value in every lane: without it the rest fills the range.
TEST(LevelsObserver, LeavesOutliersOutForTheCodecsThatKeepThemApart) {
  constexpr uint32_t kDim = 64;
  const qwen3::ModelConfig config = one_head(kDim);
  LevelsObserver observer(config, QUIRE_POST_ROPE, kPage);
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> rows(size_t{3} * kDim * kPage);
  for (float& x : rows) x = uniform(random);
  for (size_t t = 0; t < kPage; ++t) rows[(t * 3 + 2) * kDim + t] = t % 2 == 0 ? 20.0F : -20.0F;
  observer.on_rotated_qkv(0, rows);
  const std::vector<int8_t> with = of_codec(observer.value_levels(0), QUIRE_CODEC_NUQ2);
  const std::vector<int8_t> without = of_codec(observer.value_levels(0), QUIRE_CODEC_NUQ2S);
  ASSERT_EQ(with.size(), 4U);
  ASSERT_EQ(without.size(), 4U);
  EXPECT_NEAR(std::abs(without[0]), 95, 4);
  EXPECT_NEAR(std::abs(without[1]), 32, 4);
  EXPECT_GT(with[3] - without[3], 20);  // the far value's own level
}

TEST(CacheLevels, AreTheCodecsOwnAndCounted) {
  const qwen3::Model model = qwen3::load_model(qwen3::tiny_model());
  qwen3::ThreadPool pool(1);
  Calibration calibration = empty_calibration(model);
  calibration.layers[1].params.key_levels = {{QUIRE_CODEC_NUQ2, {-127, -20, 20, 127}},
                                             {QUIRE_CODEC_NUQ3, {-3, -2, -1, 0}}};
  qwen3::CacheOptions options;
  options.value_codec = QUIRE_CODEC_ROT3;  // has no levels
  options.key_codec = QUIRE_CODEC_NUQ2;
  const auto open = [&] {
    return qwen3::Cache(calibrated_geometry(model, &calibration, {options.key_codec, options.value_codec}),
                        options, pool, [&](const quire_options* given, quire_cache** out) {
                          const quire_layer_options& layer = given->layer_options[1];
                          EXPECT_EQ(given->layer_options[0].key_levels, nullptr);
                          EXPECT_EQ(layer.value_levels, nullptr);
                          EXPECT_EQ(layer.key_levels != nullptr, options.key_codec == QUIRE_CODEC_NUQ2);
                          if (layer.key_levels != nullptr) {
                            EXPECT_EQ(layer.key_levels[1], -20);
                          }
                          return quire_open(given, out);
                        });
  };
  EXPECT_NO_THROW(open());
  options.key_codec = QUIRE_CODEC_NUQ4;
  EXPECT_NO_THROW(open());
  options.key_codec = QUIRE_CODEC_NUQ3;  // four levels where eight belong
  EXPECT_THROW(open(), qwen3::Error);
}

}  // namespace
}  // namespace quire::bench
