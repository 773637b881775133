// Options that change how a cache works: codecs per layer, the engine's threads, traces, instruction sets.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <quire.hpp>
#include <string>
#include <vector>

#include "tests/bindings/plain_attention.h"

namespace {

constexpr uint32_t kLayers = 2;
constexpr uint64_t kTokens = 200;
constexpr plain_shape kShape = {4, 2, 64};
constexpr size_t kRow = kShape.kv_heads * kShape.head_dim, kQueryRow = kShape.query_heads * kShape.head_dim;
constexpr size_t kKvFloats = kTokens * kRow, kQueryFloats = kTokens * kQueryRow;

quire_options two_layers() {
  quire_options options = quire::default_options();
  options.layers = kLayers;
  options.query_heads = kShape.query_heads;
  options.kv_heads = kShape.kv_heads;
  options.head_dim = kShape.head_dim;
  options.key_codec = options.value_codec = QUIRE_CODEC_F32;
  options.host_budget = 32 << 20;
  options.threads = 2;
  return options;
}

std::vector<float> randoms(unsigned long long seed, size_t count) {
  std::vector<float> x(count);
  plain_random(seed, x.data(), count);
  return x;
}

// Every layer is handed the same rows: [layer][token][query_heads * head_dim].
struct Reading {
  std::vector<float> keys = randoms(1, kKvFloats);
  std::vector<float> values = randoms(2, kKvFloats);
  std::vector<float> queries = randoms(3, kQueryFloats);
  std::vector<std::vector<float>> out{kLayers, std::vector<float>(kQueryFloats)};
  quire_stats stats{};

  explicit Reading(const quire_options& options) {
    quire::Cache cache(options);
    quire::Sequence sequence = cache.create_sequence();
    quire::Step step = cache.begin({{sequence, 0, kTokens}});
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      step.append(layer, quire::input(keys.data()), quire::input(values.data()));
      step.attend(layer, quire::input(queries.data()), quire::output(out[layer].data()));
      EXPECT_EQ(step.wait(), quire::Outcome::kDone);
    }
    step.end();
    stats = cache.stats();
  }

  double worst_error(uint32_t layer) const {
    std::vector<double> want(kQueryRow);
    double worst = 0;
    for (size_t t = 0; t < kTokens; ++t) {
      plain_attention(&kShape, keys.data(), values.data(), &queries[t * kQueryRow], t, want.data());
      for (size_t i = 0; i < kQueryRow; ++i) {
        worst = std::max(worst, std::abs(want[i] - static_cast<double>(out[layer][t * kQueryRow + i])));
      }
    }
    return worst;
  }
};

std::string refusal_of(const quire_options& options) {
  try {
    const quire::Cache cache(options);
  } catch (const quire::Error& error) {
    return error.what();
  }
  return "";
}

TEST(LayerOptions, OneLayerMayHaveItsOwnCodecsAndBalance) {
  quire_layer_options second = quire::default_layer_options();
  std::vector<float> balance(kRow, 2.0F);
  second.layer = 1;
  second.key_codec = QUIRE_CODEC_ROT3;
  second.value_codec = QUIRE_CODEC_INT2;
  second.key_balance = balance.data();
  quire_options options = two_layers();
  options.layer_options = &second;
  options.layer_option_count = 1;
  const Reading run(options);
  EXPECT_LT(run.worst_error(0), 2e-5);
  EXPECT_GT(run.worst_error(1), 1e-3);
  EXPECT_LT(run.worst_error(1), 0.3);
  // Half of the values take 32 bits, a quarter 3 and a quarter 2, and then scales and headers.
  EXPECT_GT(run.stats.page_bits, 17.25);
  EXPECT_LT(run.stats.page_bits, 18.5);
}

TEST(LayerOptions, WhatMakesNoSenseIsNamed) {
  quire_layer_options layer = quire::default_layer_options();
  std::vector<float> balance(kRow, 1.0F);
  quire_options options = two_layers();
  options.layer_option_count = 1;
  EXPECT_NE(refusal_of(options).find("layer_options is NULL"), std::string::npos);
  options.layer_options = &layer;
  layer.layer = kLayers;
  EXPECT_NE(refusal_of(options).find("layer 2"), std::string::npos);
  layer.layer = 1;
  layer.struct_size = 1;
  EXPECT_NE(refusal_of(options).find("quire_layer_options.struct_size"), std::string::npos);
  layer = quire::default_layer_options();
  layer.value_codec = static_cast<quire_codec>(77);
  EXPECT_NE(refusal_of(options).find("unknown codec"), std::string::npos);
  layer.value_codec = QUIRE_CODEC_DEFAULT;
  layer.key_balance = balance.data();
  for (const float bad : {0.0F, -1.0F, 2048.0F, std::nanf("")}) {
    balance[5] = bad;
    EXPECT_NE(refusal_of(options).find("key_balance of layer 0"), std::string::npos) << bad;
  }
}

TEST(Executor, TheEnginesThreadsGiveTheSameBits) {
  struct Calls {
    std::atomic<uint32_t> loops{0};
    std::atomic<uint32_t> items{0};
  } calls;
  quire_options options = two_layers();
  options.key_codec = options.value_codec = QUIRE_CODEC_ROT4;
  const Reading own(options);
  options.parallel_context = &calls;
  options.parallel_for = [](void* context, uint32_t n, void (*function)(void*, uint32_t), void* argument) {
    ++static_cast<Calls*>(context)->loops;
    for (uint32_t i = n; i > 0; --i, ++static_cast<Calls*>(context)->items) function(argument, i - 1);
  };
  EXPECT_EQ(Reading(options).out, own.out);
  EXPECT_GT(calls.loops, 0U);
  EXPECT_GT(calls.items, calls.loops);
}

TEST(Trace, IsWrittenByCloseAndRefusedByOpen) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("quire-trace-" + std::to_string(getpid()) + ".json");
  quire_options options = two_layers();
  const std::string name = path.string();
  options.trace_path = name.c_str();
  { const Reading run(options); }
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::filesystem::remove(path);
  for (const char* part : {"traceEvents", "\"attend\"", "\"encode\""}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }

  options.trace_path = "/no/such/folder/trace.json";
  EXPECT_NE(refusal_of(options).find("/no/such/folder/trace.json"), std::string::npos);
}

// The sets of this machine, slowest first; each that is forced is the one that runs.
TEST(InstructionSet, CanBeForced) {
  quire_options options = two_layers();
  options.key_codec = options.value_codec = QUIRE_CODEC_ROT4;
  const std::string best = quire::capabilities().isa;
  std::vector<std::string> ran;
  for (const char* isa : {"scalar", "avx2", "avxvnni", "avx512", "amx", "neon"}) {
    ASSERT_EQ(setenv("QUIRE_ISA", isa, 1), 0);
    quire_capabilities_info info{};
    info.struct_size = sizeof info;
    const quire_status status = quire_capabilities(&info);
    if (status == QUIRE_OK) {
      EXPECT_STREQ(info.isa, isa);
      EXPECT_LT(Reading(options).worst_error(0), 0.15);
      ran.emplace_back(isa);
    } else {
      EXPECT_EQ(status, QUIRE_UNSUPPORTED);
      EXPECT_NE(refusal_of(options).find(isa), std::string::npos);
    }
  }
  ASSERT_EQ(setenv("QUIRE_ISA", "mmx", 1), 0);
  EXPECT_NE(refusal_of(options).find("mmx"), std::string::npos);
  unsetenv("QUIRE_ISA");
  EXPECT_EQ(ran.front(), "scalar");
  EXPECT_EQ(ran.back(), best);
  std::printf("[counts] cases=%zu\n", ran.size());
}

}  // namespace
