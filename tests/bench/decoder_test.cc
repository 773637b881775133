// The decoder against activations dumped from Hugging Face transformers (tests/models/README.md).
#include "bench/qwen3/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "bench/qwen3/ops.h"
#include "tests/bench/plain_attention.h"
#include "tests/bench/reference.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

// A decoder over plain attention that reads chunk after chunk.
class Reader {
 public:
  explicit Reader(Rope rope, uint32_t threads = 1, uint64_t first = 0)
      : pool_(threads),
        decoder_(tiny(), pool_),
        attention_(tiny().config),
        rope_(std::move(rope)),
        position_(first) {}

  std::span<const float> read(std::span<const int32_t> tokens, uint32_t logit_rows,
                              Observer* observer = nullptr) {
    const auto count = static_cast<uint32_t>(tokens.size());
    const ProductRows whole{count, 0, count};
    const Pass pass{tokens, position_, {&whole, 1}, &rope_};
    position_ += count;
    return decoder_.forward(pass, attention_, logit_rows, observer);
  }

 private:
  ThreadPool pool_;
  Decoder decoder_;
  PlainAttention attention_;
  Rope rope_;
  uint64_t position_;
};

Rope rope_of(const RopeConfig& config, uint64_t length = 160) {
  return make_rope(config, tiny().config.head_dim, tiny().config.max_positions, length);
}

TEST(DecoderTest, ActivationsMatchTransformers) {
  const Reference reference;
  Reader reader(rope_of(tiny().config.rope));
  Recorder recorder(tiny().config);
  const auto logits = reader.read(reference.tokens("input_ids"), 64, &recorder);
  expect_near(logits, reference.floats("logits_last64"), kTolerance, "logits");
  EXPECT_EQ(recorder.record.size(), 5 + 4 * 4);
  for (const auto& [name, values] : recorder.record) {
    expect_near(values, reference.floats(name), kTolerance, name);
  }
}

TEST(DecoderTest, NllMatchesTransformers) {
  const Reference reference;
  const std::vector<int32_t> ids = reference.tokens("input_ids");
  Reader reader(rope_of(tiny().config.rope));
  const auto logits = reader.read(ids, static_cast<uint32_t>(ids.size()));
  std::vector<float> nll;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    nll.push_back(static_cast<float>(negative_log_likelihood(logits.subspan(i * 4096, 4096), ids[i + 1])));
  }
  expect_near(nll, reference.floats("nll"), kTolerance, "nll");
}

TEST(DecoderTest, GreedyTokensMatchTransformers) {
  const Reference reference;
  Reader reader(rope_of(tiny().config.rope));
  std::vector<int32_t> tokens;
  int32_t next = argmax(reader.read(reference.tokens("input_ids"), 1));
  while (tokens.size() < 48) {
    tokens.push_back(next);
    next = argmax(reader.read({&next, 1}, 1));
  }
  EXPECT_EQ(tokens, reference.tokens("greedy48"));
}

struct RopeCase {
  std::string name;
  RopeConfig config;
  uint64_t max_positions;
};

std::vector<RopeCase> rope_cases() {
  const RopeConfig base{.theta = 1e7};
  const auto with = [&](RopeType type, double factor, uint64_t original) {
    RopeConfig config = base;
    config.type = type;
    config.factor = factor;
    config.original_positions = original;
    return config;
  };
  return {{"linear4", with(RopeType::kLinear, 4, 0), 1048576},
          {"yarn4", with(RopeType::kYarn, 4, 32768), 1048576},
          {"dynamic2", with(RopeType::kDynamic, 2, 0), 128},
          {"llama3", with(RopeType::kLlama3, 8, 8192), 1048576}};
}

TEST(DecoderTest, RopeVariantsMatchTransformers) {
  const Reference reference;
  for (const RopeCase& c : rope_cases()) {
    Reader reader(make_rope(c.config, 128, c.max_positions, 160));
    const auto logits = reader.read(reference.tokens("input_ids"), 16);
    expect_near(logits, reference.floats(c.name + ".logits_last16"), kTolerance, c.name);
  }
}

TEST(DecoderTest, RopeFrequenciesMatchTransformers) {
  const Reference reference;
  for (const RopeCase& c : rope_cases()) {
    const Rope rope = make_rope(c.config, 128, c.max_positions, 160);
    const std::vector<float> expected = reference.floats(c.name + ".inv_freq");
    ASSERT_EQ(rope.inv_freq.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(rope.inv_freq[i], expected[i], 1e-6 * expected[i]) << c.name << " pair " << i;
    }
    EXPECT_FLOAT_EQ(rope.attention_factor, reference.floats(c.name + ".attention_scaling")[0]) << c.name;
  }
}

// Rope depends on distances alone, so logits far out must be those at the beginning.
TEST(DecoderTest, PositionsAtOneMillionChangeNothing) {
  const Reference reference;
  Reader reader(rope_of(tiny().config.rope), 1, 1'000'000);
  expect_near(reader.read(reference.tokens("input_ids"), 64), reference.floats("logits_last64"), kTolerance,
              "offset");
}

// Plain attention that rotates for itself, with angles rounded to f32 as transformers rounds them.
class CoarseRopeAttention : public PlainAttention {
 public:
  explicit CoarseRopeAttention(float first) : PlainAttention(tiny().config), first_(first) {}
  void append(uint32_t layer, TokenRows keys, TokenRows values) override {
    const std::vector<float> rotated = rotate_rows(keys, tiny().config.kv_heads);
    PlainAttention::append(layer, {rotated.data(), keys.count, tiny().config.kv_size()}, values);
  }
  void attend(uint32_t layer, TokenRows queries, std::span<float> out) override {
    const std::vector<float> rotated = rotate_rows(queries, tiny().config.query_heads);
    PlainAttention::attend(layer, {rotated.data(), queries.count, tiny().config.query_size()}, out);
  }

 private:
  std::vector<float> rotate_rows(TokenRows rows, uint32_t heads) const {
    std::vector<float> out;
    for (uint32_t row = 0; row < rows.count; ++row) {
      for (uint32_t head = 0; head < heads; ++head) {
        const float* x = rows.data + row * rows.stride + size_t{head} * 128;
        for (uint32_t c = 0; c < 128; ++c) {
          const uint32_t pair = c % 64;
          const float inv_freq = 1.0f / std::pow(1e7f, static_cast<float>(pair) / 64.0f);
          const float angle = (first_ + static_cast<float>(row)) * inv_freq;
          out.push_back(c < 64 ? x[pair] * std::cos(angle) - x[pair + 64] * std::sin(angle)
                               : x[pair + 64] * std::cos(angle) + x[pair] * std::sin(angle));
        }
      }
    }
    return out;
  }

  float first_;
};

// transformers' f32 angles err by 0.03 rad out there, so its logits are met only with the same error.
TEST(DecoderTest, PositionsAtOneMillionMatchTransformersWithItsOwnAngles) {
  const Reference reference;
  const std::vector<int32_t> ids = reference.tokens("input_ids");
  ThreadPool pool(1);
  Decoder decoder(tiny(), pool);
  CoarseRopeAttention attention(1e6f);
  const ProductRows whole{160, 0, 160};
  const auto logits = decoder.forward({ids, 1'000'000, {&whole, 1}, nullptr}, attention, 16);
  expect_near(logits, reference.floats("offset1000000.logits_last16"), kTolerance, "offset");
}

TEST(DecoderTest, ChunkedPrefillMatchesTransformers) {
  const Reference reference;
  const std::vector<int32_t> ids = reference.tokens("input_ids");
  Reader reader(rope_of(tiny().config.rope));
  std::span<const int32_t> rest = ids;
  for (const size_t chunk : {63, 1, 32}) {
    reader.read(rest.first(chunk), 0);
    rest = rest.subspan(chunk);
  }
  expect_near(reader.read(rest, 64), reference.floats("logits_last64"), kTolerance, "logits");
}

TEST(DecoderTest, BitsDoNotDependOnTheNumberOfThreads) {
  const std::vector<int32_t> ids = Reference().tokens("input_ids");
  std::vector<float> first;
  for (const uint32_t threads : {1, 2, 3}) {
    Reader reader(rope_of(tiny().config.rope), threads);
    reader.read(std::span(ids).first(150), 0);
    const auto logits = reader.read(std::span(ids).subspan(150, 1), 1);
    if (first.empty()) first.assign(logits.begin(), logits.end());
    EXPECT_TRUE(std::equal(first.begin(), first.end(), logits.begin())) << threads << " threads";
  }
}

// Collects what is appended in one layer and attends over a cache that is already filled.
class ReplayAttention : public Attention {
 public:
  ReplayAttention(uint32_t layer, std::vector<std::vector<float>> attended)
      : layer_(layer), attended_(std::move(attended)) {}
  void append(uint32_t layer, TokenRows keys, TokenRows) override {
    if (layer != layer_) return;
    for (uint32_t row = 0; row < keys.count; ++row) {
      const float* from = keys.data + row * keys.stride;
      appended.insert(appended.end(), from, from + tiny().config.kv_size());
    }
  }
  void attend(uint32_t layer, TokenRows, std::span<float> out) override {
    ASSERT_LT(layer, layer_);
    std::copy(attended_[layer].begin(), attended_[layer].end(), out.begin());
  }
  std::vector<float> appended;

 private:
  uint32_t layer_;
  std::vector<std::vector<float>> attended_;  // by layer, of the rows that are computed again
};

// Plain attention that keeps what came in and went out for some rows of the last pass.
class RecordingAttention : public PlainAttention {
 public:
  RecordingAttention(uint32_t first, uint32_t count)
      : PlainAttention(tiny().config), first_(first), count_(count) {}
  void append(uint32_t layer, TokenRows keys, TokenRows values) override {
    PlainAttention::append(layer, keys, values);
    auto& kept = appended.emplace_back();
    for (uint32_t row = first_; row < first_ + count_; ++row) {
      const float* from = keys.data + row * keys.stride;
      kept.insert(kept.end(), from, from + tiny().config.kv_size());
    }
  }
  void attend(uint32_t layer, TokenRows queries, std::span<float> out) override {
    PlainAttention::attend(layer, queries, out);
    const size_t n = tiny().config.query_size();
    const auto rows = out.subspan(first_ * n, count_ * n);
    attended.emplace_back(rows.begin(), rows.end());
  }
  std::vector<std::vector<float>> appended;  // keys by layer
  std::vector<std::vector<float>> attended;  // by layer

 private:
  uint32_t first_;
  uint32_t count_;
};

TEST(DecoderTest, RecomputedRowsOfAChunkHaveTheSameBits) {
  const std::vector<int32_t> ids = Reference().tokens("input_ids");
  const Rope rope = rope_of(tiny().config.rope);
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool);
  constexpr uint32_t kFirst = 64;
  constexpr uint32_t kCount = 64;
  RecordingAttention clean(kFirst, kCount);
  const ProductRows whole{160, 0, 160};
  decoder.forward({ids, 0, {&whole, 1}, &rope}, clean, 0);

  const ProductRows part{kCount, kFirst, 160};
  for (uint32_t layer = 0; layer < tiny().config.layers; ++layer) {
    ReplayAttention replay(layer, clean.attended);
    decoder.recompute({std::span(ids).subspan(kFirst, kCount), kFirst, {&part, 1}, &rope}, replay, layer);
    EXPECT_EQ(replay.appended, clean.appended[layer]) << "layer " << layer;
  }
}

TEST(DecoderTest, TokenOutsideTheVocabularyIsAnError) {
  Reader reader(rope_of(tiny().config.rope));
  const std::vector<int32_t> ids{1, 4096};
  EXPECT_NE(error_of([&] { reader.read(ids, 1); }).find("4096"), std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
