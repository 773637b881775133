#include "bench/qwen3/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quire::qwen3 {
namespace {

TEST(RopeTest, AnglesStayExactAtOneMillion) {
  const RopeConfig config{.theta = 1e6};
  const Rope rope = make_rope(config, 128, 1 << 20, 1 << 20);
  const RopeTable table = make_rope_table(rope, 1'000'003, 2);
  for (uint32_t i = 0; i < 64; ++i) {
    const long double angle = 1'000'004.0L * powl(1e6L, -2.0L * i / 128);
    EXPECT_NEAR(table.cosines[64 + i], static_cast<double>(cosl(angle)), 1e-7) << i;
    EXPECT_NEAR(table.sines[64 + i], static_cast<double>(sinl(angle)), 1e-7) << i;
  }
}

TEST(RopeTest, RotationTurnsPairsOfTheTwoHalves) {
  Rope rope;
  rope.inv_freq = {0.5, 0.25};
  rope.attention_factor = 2;
  const RopeTable table = make_rope_table(rope, 3, 1);
  std::vector<float> head{1, 0, 0, 1};
  rotate(head, table, 0);
  EXPECT_NEAR(head[0], 2 * std::cos(1.5), 1e-6);
  EXPECT_NEAR(head[2], 2 * std::sin(1.5), 1e-6);
  EXPECT_NEAR(head[1], -2 * std::sin(0.75), 1e-6);
  EXPECT_NEAR(head[3], 2 * std::cos(0.75), 1e-6);
}

TEST(RopeTest, DynamicScalingStartsBeyondTheModelsLimit) {
  RopeConfig config{.type = RopeType::kDynamic, .theta = 1e6, .factor = 2};
  const Rope plain = make_rope({.theta = 1e6}, 64, 1000, 5000);
  EXPECT_EQ(make_rope(config, 64, 1000, 1000).inv_freq, plain.inv_freq);
  EXPECT_LT(make_rope(config, 64, 1000, 1001).inv_freq.back(), plain.inv_freq.back());
}

TEST(RopeTest, YarnTakesAnExplicitAttentionFactor) {
  RopeConfig config{.type = RopeType::kYarn, .theta = 1e6, .factor = 4, .original_positions = 32768};
  config.attention_factor = 1.5;
  EXPECT_FLOAT_EQ(make_rope(config, 128, 131072, 1).attention_factor, 1.5f);
  config.attention_factor.reset();
  config.mscale = 1;
  config.mscale_all_dim = 1;
  EXPECT_FLOAT_EQ(make_rope(config, 128, 131072, 1).attention_factor, 1.0f);
}

}  // namespace
}  // namespace quire::qwen3
