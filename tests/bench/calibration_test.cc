// The calibration file byte by byte, the statistics against sums over Hugging Face's activations, and that
// programs take from a calibration what it says.
#include "bench/calibration/calibration.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "bench/calibration/statistics.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/session.h"
#include "tests/bench/test_files.h"

namespace quire::bench {
namespace {

const qwen3::Model& tiny() {
  static const qwen3::Model model = qwen3::load_model(qwen3::tiny_model());
  return model;
}

Calibration example() {
  Calibration out;
  out.model = 0x1122334455667788;
  out.query_heads = 2;
  out.kv_heads = 1;
  out.head_dim = 32;
  out.tokens = 1000;
  out.text = "some text";
  out.layers.resize(2);
  out.layers[1].params.key_balance.assign(32, 1.5F);
  out.layers[1].params.key_levels = {{QUIRE_CODEC_INT2, {-127, -20, 20, 127}},
                                     {QUIRE_CODEC_INT3, {-3, -2, -1, 0, 1, 2, 3, 4}}};
  out.layers[0].params.value_levels = {{QUIRE_CODEC_INT2, {-100, -1, 1, 100}}};
  out.layers[0].statistics.key_peak.assign(32, 9);
  out.layers[0].statistics.query_rms.assign(32, 3);
  out.mixes = {{2.25F, {{QUIRE_CODEC_ROT2, QUIRE_CODEC_ROT3}, {QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT2}}},
               {3.5F, {{QUIRE_CODEC_ROT3, QUIRE_CODEC_ROT3}, {QUIRE_CODEC_INT4, QUIRE_CODEC_ROT2}}}};
  return out;
}

TEST(CalibrationFile, HoldsEverything) {
  const Calibration from = example();
  const Calibration to = decode(encode(from), "x");
  EXPECT_EQ(to.model, from.model);
  EXPECT_EQ(to.query_heads, 2U);
  EXPECT_EQ(to.kv_heads, 1U);
  EXPECT_EQ(to.head_dim, 32U);
  EXPECT_EQ(to.tokens, 1000U);
  EXPECT_EQ(to.text, "some text");
  ASSERT_EQ(to.layers.size(), 2U);
  EXPECT_EQ(to.layers[1].params.key_balance, from.layers[1].params.key_balance);
  ASSERT_EQ(to.layers[1].params.key_levels.size(), 2U);
  EXPECT_EQ(to.layers[1].params.key_levels[1].codec, QUIRE_CODEC_INT3);
  EXPECT_EQ(to.layers[1].params.key_levels[1].levels, from.layers[1].params.key_levels[1].levels);
  ASSERT_EQ(to.layers[0].params.value_levels.size(), 1U);
  EXPECT_EQ(to.layers[0].params.value_levels[0].levels, from.layers[0].params.value_levels[0].levels);
  EXPECT_EQ(to.layers[0].statistics.key_peak, from.layers[0].statistics.key_peak);
  EXPECT_EQ(to.layers[0].statistics.query_rms, from.layers[0].statistics.query_rms);
  EXPECT_TRUE(to.layers[0].statistics.key_rms.empty());
  ASSERT_EQ(to.mixes.size(), 2U);
  EXPECT_EQ(to.mixes[1].budget, 3.5F);
  EXPECT_EQ(to.mixes[1].layers[1].key, QUIRE_CODEC_INT4);
  EXPECT_EQ(to.mixes[1].layers[0].value, QUIRE_CODEC_ROT3);
}

template <typename T>
T load(const std::vector<uint8_t>& bytes, size_t at) {
  T value;
  std::memcpy(&value, &bytes[at], sizeof value);
  return value;
}

template <typename T>
void store(std::vector<uint8_t>* bytes, size_t at, T value) {
  std::memcpy(&(*bytes)[at], &value, sizeof value);
}

// Makes the header fit bytes that a test has changed.
void seal(std::vector<uint8_t>* bytes) {
  store<uint64_t>(bytes, 24, bytes->size());
  store<uint64_t>(bytes, 56, 0);
  store<uint64_t>(bytes, 56, XXH3_64bits(bytes->data(), bytes->size()));
}

// FORMAT.md, walked by hand.
TEST(CalibrationFile, IsWhatTheFormatSays) {
  const std::vector<uint8_t> bytes = encode(example());
  EXPECT_EQ(std::string(bytes.begin(), bytes.begin() + 8), "quirecal");
  EXPECT_EQ(load<uint32_t>(bytes, 8), 1U);
  EXPECT_EQ(load<uint64_t>(bytes, 16), 0x1122334455667788U);
  EXPECT_EQ(load<uint64_t>(bytes, 24), bytes.size());
  EXPECT_EQ(load<uint32_t>(bytes, 32), 2U);
  EXPECT_EQ(load<uint32_t>(bytes, 44), 32U);
  EXPECT_EQ(load<uint64_t>(bytes, 48), 1000U);
  std::vector<uint8_t> sealed = bytes;
  seal(&sealed);
  EXPECT_EQ(sealed, bytes);

  size_t at = 64;
  std::vector<uint32_t> kinds;
  for (uint32_t i = 0; i < load<uint32_t>(bytes, 12); ++i) {
    ASSERT_EQ(at % 8, 0U);
    kinds.push_back(load<uint32_t>(bytes, at));
    if (kinds.back() == 1) {
      EXPECT_EQ(load<uint32_t>(bytes, at + 4), 1U);
      EXPECT_EQ(load<uint64_t>(bytes, at + 8), 32 * sizeof(float));
      EXPECT_EQ(load<float>(bytes, at + 16), 1.5F);
    }
    if (kinds.back() == 32) {
      EXPECT_EQ(load<uint32_t>(bytes, at + 4), 0xffffffffU);
      EXPECT_EQ(std::string(&bytes[at + 16], &bytes[at + 25]), "some text");
    }
    at = (at + 16 + load<uint64_t>(bytes, at + 8) + 7) / 8 * 8;
  }
  EXPECT_EQ(at, bytes.size());
  EXPECT_EQ(kinds, (std::vector<uint32_t>{32, 33, 33, 3, 16, 19, 1, 2, 2}));
}

TEST(CalibrationFile, UnknownSectionsAreSkipped) {
  std::vector<uint8_t> bytes = encode(example());
  const size_t end = bytes.size();
  bytes.resize(end + 16 + 8);
  store<uint32_t>(&bytes, end, 777);
  store<uint32_t>(&bytes, end + 4, 1);
  store<uint64_t>(&bytes, end + 8, 3);
  store<uint32_t>(&bytes, 12, load<uint32_t>(bytes, 12) + 1);
  seal(&bytes);
  EXPECT_EQ(decode(bytes, "x").mixes.size(), 2U);
}

TEST(CalibrationFile, DamageIsRefused) {
  const std::vector<uint8_t> bytes = encode(example());
  int cases = 0;
  for (size_t i = 0; i < bytes.size(); ++i, ++cases) {
    std::vector<uint8_t> damaged = bytes;
    damaged[i] ^= 0x10;
    SCOPED_TRACE(i);
    EXPECT_NE(qwen3::error_of([&] { decode(damaged, "x"); }), "");
  }
  for (size_t length = 0; length < bytes.size(); ++length, ++cases) {
    SCOPED_TRACE(length);
    EXPECT_NE(qwen3::error_of([&] { decode(std::span(bytes).first(length), "x"); }), "");
  }
  std::printf("[counts] cases=%d\n", cases);
}

TEST(CalibrationFile, ValidChecksumsDoNotExcuseNonsense) {
  const auto refused_with = [](size_t at, auto value) {
    std::vector<uint8_t> bytes = encode(example());
    store(&bytes, at, value);
    seal(&bytes);
    return qwen3::error_of([&] { decode(bytes, "file"); });
  };
  EXPECT_NE(refused_with(8, uint32_t{2}).find("version 2"), std::string::npos);
  EXPECT_NE(refused_with(12, uint32_t{1}).find("behind its last section"), std::string::npos);
  EXPECT_NE(refused_with(12, uint32_t{100}).find("ends inside"), std::string::npos);
  EXPECT_NE(refused_with(32, uint32_t{3}).find("mix for another number"), std::string::npos);
  EXPECT_NE(refused_with(32, uint32_t{1} << 31).find("geometry"), std::string::npos);
  EXPECT_NE(refused_with(44, uint32_t{64}).find("wrong length"), std::string::npos);
  EXPECT_NE(refused_with(64 + 8, uint64_t{1} << 63).find("ends inside"), std::string::npos);
  EXPECT_NE(refused_with(64 + 4, uint32_t{2}).find("layer 2 of 2"), std::string::npos);
}

TEST(CalibrationFile, AnotherModelIsRefused) {
  const Calibration calibration = empty_calibration(tiny());
  check_model(calibration, tiny(), "file");
  qwen3::Model other = tiny();
  other.weights.layers[3].qkv.values[5] ^= 1;
  EXPECT_NE(qwen3::error_of([&] { check_model(calibration, other, "file"); }).find("another model"),
            std::string::npos);
}

TEST(CalibratedGeometry, TakesWhatTheCalibrationSays) {
  Calibration calibration = empty_calibration(tiny());
  const size_t channels = tiny().config.kv_size();
  calibration.layers[2].params.key_balance.assign(channels, 2.0F);
  calibration.mixes = {{2.25F, std::vector<CodecChoice>(4, {QUIRE_CODEC_ROT2, QUIRE_CODEC_ROT3})}};
  const auto plain = qwen3::geometry_of(tiny());
  const auto geometry = calibrated_geometry(tiny(), &calibration, parse_codec_pair("rot4"));
  EXPECT_EQ(geometry.params[2].key_balance, calibration.layers[2].params.key_balance);
  EXPECT_EQ(geometry.params[1].key_balance, plain.params[1].key_balance);
  EXPECT_EQ(geometry.params[1].key_codec, QUIRE_CODEC_DEFAULT);

  for (const char* name : {"calibrated", "calibrated@2.25", "calibrated@2.250"}) {
    const auto mixed = calibrated_geometry(tiny(), &calibration, parse_codec_pair(name));
    EXPECT_EQ(mixed.params[3].key_codec, QUIRE_CODEC_ROT2);
    EXPECT_EQ(mixed.params[3].value_codec, QUIRE_CODEC_ROT3);
  }
  const auto refused = [&](const Calibration* from, const char* name) {
    return qwen3::error_of([&] { calibrated_geometry(tiny(), from, parse_codec_pair(name)); });
  };
  EXPECT_NE(refused(&calibration, "calibrated@3").find("choose from calibrated@2.25"), std::string::npos);
  EXPECT_NE(refused(nullptr, "calibrated").find("--calibration"), std::string::npos);
  EXPECT_NE(refused(nullptr, "calibrated@").find("no mix"), std::string::npos);
  EXPECT_NE(refused(nullptr, "calibrated@3x").find("no mix"), std::string::npos);
  calibration.mixes.push_back({3, calibration.mixes[0].layers});
  EXPECT_NE(refused(&calibration, "calibrated").find("calibrated@2.25, calibrated@3.00"), std::string::npos);
  calibration.mixes.clear();
  EXPECT_NE(refused(&calibration, "calibrated").find("--budget"), std::string::npos);
}

// Sums over what Hugging Face transformers computed for the same 160 tokens.
TEST(Statistics, AgreeWithHuggingFace) {
  const qwen3::TensorFiles reference(qwen3::tiny_model() / "reference.safetensors");
  const std::vector<int64_t> ids = qwen3::to_i64(reference.find("input_ids"));
  const std::vector<int32_t> tokens(ids.begin(), ids.end());
  const qwen3::ModelConfig& config = tiny().config;
  qwen3::ThreadPool pool(2);
  qwen3::Decoder decoder(tiny(), pool);
  qwen3::CacheOptions options;
  options.key_codec = options.value_codec = QUIRE_CODEC_F32;
  qwen3::Cache cache(qwen3::geometry_of(tiny()), options, pool);
  qwen3::Session session(decoder, cache, tokens.size());
  StatisticsObserver observer(config);
  const auto half = std::span(tokens).first(tokens.size() / 2);
  session.read(half, 0, &observer);
  session.read(std::span(tokens).subspan(half.size()), 0, &observer);

  const size_t dim = config.head_dim;
  const auto rms = [&](const std::vector<float>& heads, size_t first_head, size_t count, size_t channel) {
    double sum = 0;
    for (size_t h = first_head; h < first_head + count; ++h) {
      for (size_t t = 0; t < tokens.size(); ++t) {
        const double x = heads[(h * tokens.size() + t) * dim + channel];
        sum += x * x;
      }
    }
    return std::sqrt(sum / static_cast<double>(count * tokens.size()));
  };
  for (uint32_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "layer" + std::to_string(layer);
    const auto queries = qwen3::to_f32(reference.find(prefix + ".q_normed"));
    const auto keys = qwen3::to_f32(reference.find(prefix + ".k_normed"));
    const ChannelStatistics statistics = observer.statistics(layer);
    const std::vector<float> balance = key_balance(statistics, config.head_dim, config.head_dim);
    for (size_t i = 0; i < config.kv_size(); ++i) {
      const size_t head = i / dim;
      const size_t channel = i % dim;
      const double query = rms(queries, 2 * head, 2, channel);
      const double key = rms(keys, head, 1, channel);
      EXPECT_NEAR(statistics.query_rms[i], query, 1e-3 * query);
      EXPECT_NEAR(statistics.key_rms[i], key, 1e-3 * key);
      const size_t other = channel ^ (dim / 2);
      const double query2 = rms(queries, 2 * head, 2, other);
      const double key2 = rms(keys, head, 1, other);
      const double s = std::pow((query * query + query2 * query2) / (key * key + key2 * key2), 0.25);
      EXPECT_NEAR(balance[i], s, 1e-3 * s);
      EXPECT_EQ(balance[i], balance[head * dim + other]);
    }
  }
}

TEST(Statistics, ChannelsOfZerosStayAsTheyAre) {
  ChannelStatistics statistics;
  statistics.query_rms = {0, 1, 1e30F, 4};
  statistics.key_rms = {1, 0, 1e-30F, 1};
  EXPECT_EQ(key_balance(statistics, 4, 0), (std::vector<float>{1, 1, 1024, 2}));
}

}  // namespace
}  // namespace quire::bench
