// Levels that a layer brings for its non-uniform codecs: that attention uses them, that pages are told apart
// by them, and which are refused.
#include <gtest/gtest.h>

#include <algorithm>

#include "kvcache/config.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

const std::vector<int8_t> kWide{-100, -30, 30, 100};
const std::vector<int8_t> kNarrow{-90, -28, 27, 91};

World world_of(CodecId codec, std::vector<int8_t> key_levels, std::vector<int8_t> value_levels) {
  World world;
  world.key_codec = world.value_codec = codec;
  world.key_levels = std::move(key_levels);
  world.value_levels = std::move(value_levels);
  return world;
}

double worst_error(const World& world) {
  const auto engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  EXPECT_TRUE(engine->cache().set_rope(sequence, test_rope(world)).ok());
  const Output output = run_chunks(*engine, world, sequence, 0, 300, 100);
  EXPECT_TRUE(output.status.ok()) << output.status.message();
  double worst = 0;
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    for (const uint64_t position : {0U, 150U, 299U}) {
      const float* row = output.out[layer].data() + position * world.query_row();
      worst = std::max(worst, relative_error(row, attend_reference(world, layer, position)));
    }
  }
  return worst;
}

TEST(LayerLevels, AttentionReadsThemInBothKeySpaces) {
  for (const KeySpace space : {KeySpace::kPostRope, KeySpace::kPreRope}) {
    for (const CodecId codec : {CodecId::kNuq2, CodecId::kNuq2s}) {
      World world = world_of(codec, kWide, kNarrow);
      world.key_space = space;
      EXPECT_LT(worst_error(world), 0.75);
      // Levels that serve nothing, so that it shows that they are used.
      world.value_levels = {-127, -126, -125, -124};
      EXPECT_GT(worst_error(world), 0.75);
    }
  }
}

uint64_t params_hash(const World& world) {
  CacheConfig config = engine_options(world).config;
  const Status status = check_config(&config);
  EXPECT_TRUE(status.ok()) << status.message();
  return config.layer[0].params_hash;
}

TEST(LayerLevels, TellPagesApart) {
  std::vector<uint64_t> hashes{0};
  for (const World& world : {world_of(CodecId::kNuq2, kWide, {}), world_of(CodecId::kNuq2, {}, kWide),
                             world_of(CodecId::kNuq2, kWide, kWide), world_of(CodecId::kNuq2, kNarrow, {})}) {
    const uint64_t hash = params_hash(world);
    EXPECT_EQ(std::ranges::count(hashes, hash), 0);
    hashes.push_back(hash);
  }
  EXPECT_EQ(params_hash(world_of(CodecId::kNuq2, {}, {})), 0U);
}

TEST(LayerLevels, AreRefusedWithASentenceWhereTheyMakeNoSense) {
  struct Refused {
    CodecId codec;
    std::vector<int8_t> levels;
    const char* says;
  };
  for (const Refused& refused : {Refused{CodecId::kRot4, kWide, "only nuq codecs take levels"},
                                 Refused{CodecId::kNuq4, kWide, "nuq4 needs 16"},
                                 Refused{CodecId::kNuq2, {-10, 0, 0, 10}, "ascend strictly"},
                                 Refused{CodecId::kNuq2, {-128, 0, 1, 10}, "ascend strictly"}}) {
    CacheConfig config = engine_options(world_of(refused.codec, refused.levels, {})).config;
    const Status status = check_config(&config);
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    EXPECT_NE(status.message().find("key levels of layer 0"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(refused.says), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace quire::testing
