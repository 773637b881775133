// The decoder on a device: against Hugging Face's activations, the CPU's decoder, and itself.
#include "bench/qwen3/decoder.h"

#include <array>
#include <cmath>

#include "bench/qwen3/cache.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/reading.h"
#include "bench/qwen3/session.h"
#include "tests/bench/plain_attention.h"
#include "tests/bench/reference.h"
#include "tests/cuda/engine_runner.h"

namespace quire::qwen3 {
namespace {

using testing::CudaEngine;
using testing::kMiB;

constexpr uint32_t kDevice = QUIRE_DEVICE_CUDA;

// Plain attention for rows on a device: it sees copies.
class CopyingAttention : public Attention {
 public:
  explicit CopyingAttention(Compute& compute) : compute_(compute), plain_(tiny().config) {}
  void append(uint32_t layer, TokenRows keys, TokenRows values) override {
    const uint32_t width = tiny().config.kv_size();
    const std::vector<float> k = copy(keys, width);
    const std::vector<float> v = copy(values, width);
    plain_.append(layer, {k.data(), keys.count, width}, {v.data(), values.count, width});
  }
  void attend(uint32_t layer, TokenRows queries, std::span<float> out) override {
    const uint32_t width = tiny().config.query_size();
    const std::vector<float> q = copy(queries, width);
    std::vector<float> attended(out.size());
    plain_.attend(layer, {q.data(), queries.count, width}, attended);
    compute_.store(attended, out);
  }

 private:
  std::vector<float> copy(TokenRows rows, uint32_t width) {
    std::vector<float> out(size_t{rows.count} * width);
    compute_.load(rows, width, out.data());
    return out;
  }

  Compute& compute_;
  PlainAttention plain_;
};

TEST_F(CudaEngine, DecodersActivationsMatchTransformers) {
  const Reference reference;
  const std::vector<int32_t> ids = reference.tokens("input_ids");
  ThreadPool pool(1);
  Decoder decoder(tiny(), pool, kDevice);
  CopyingAttention attention(decoder.compute());
  const Rope rope = make_rope(tiny().config.rope, 128, tiny().config.max_positions, 160);
  const ProductRows whole{160, 0, 160};
  Recorder recorder(tiny().config);
  const auto logits = decoder.forward({ids, 0, {&whole, 1}, &rope}, attention, 64, &recorder);
  expect_near(logits, reference.floats("logits_last64"), kTolerance, "logits");
  EXPECT_EQ(recorder.record.size(), 5 + 4 * 4);
  for (const auto& [name, values] : recorder.record) {
    expect_near(values, reference.floats(name), kTolerance, name);
  }
}

CacheOptions pages(quire_codec codec, uint32_t device) {
  CacheOptions options;
  options.key_codec = options.value_codec = codec;
  options.host_budget = 64 * kMiB;
  options.device_budget = device == 0 ? 0 : 32 * kMiB;
  options.device = device;
  options.chunk_tokens = 128;
  return options;
}

// What a model writes after the reference's prompt.
std::vector<int32_t> written(quire_codec codec, uint32_t device, const SamplingOptions& sampling,
                             uint64_t count) {
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool, device);
  Cache cache(geometry_of(tiny()), pages(codec, device), pool);
  Session session(decoder, cache, 160 + count);
  Sampler sampler(sampling);
  return generate(session, Reference().tokens("input_ids"), sampler, count, {});
}

TEST_F(CudaEngine, DecodersGreedyTokensAreTransformers) {
  constexpr uint64_t kTokens = 8;
  std::vector<int32_t> expected = Reference().tokens("greedy48");
  expected.resize(kTokens);
  EXPECT_EQ(written(QUIRE_CODEC_F32, kDevice, {}, kTokens), expected);
}

TEST_F(CudaEngine, DecodersDrawsAreTheCpus) {
  for (const SamplingOptions& sampling : {SamplingOptions{0.9, 40, 0.95, 5}, SamplingOptions{1.2, 0, 1, 6}}) {
    EXPECT_EQ(written(QUIRE_CODEC_F32, kDevice, sampling, 4), written(QUIRE_CODEC_F32, 0, sampling, 4));
  }
}

TEST_F(CudaEngine, DecodersLogitsOverPagesOnTheDeviceMatchTransformers) {
  const Reference reference;
  const std::vector<int32_t> ids = reference.tokens("input_ids");
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool, kDevice);
  Cache cache(geometry_of(tiny()), pages(QUIRE_CODEC_F32, kDevice), pool);
  Session session(decoder, cache, 160);
  session.read(std::span(ids).first(96), 0);
  expect_near(session.read(std::span(ids).subspan(96), 64), reference.floats("logits_last64"), kTolerance,
              "logits");
  const quire_stats stats = cache.stats();
  EXPECT_EQ(stats.device_pages, 2 * tiny().config.layers);
}

// Rows of a product have the bits of the whole one when they are computed in its shape.
TEST_F(CudaEngine, ProductsOfPartsHaveTheWholesBits) {
  ThreadPool pool(1);
  const std::unique_ptr<Compute> compute = make_compute(tiny(), pool, kDevice);
  const Matrix& w = tiny().weights.layers[1].down;
  constexpr uint32_t kRows = 9;
  std::vector<float> x(size_t{kRows} * w.cols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  RowBuffer in(*compute);
  RowBuffer whole(*compute);
  RowBuffer part(*compute);
  in.resize(x.size());
  whole.resize(size_t{kRows} * w.rows);
  part.resize(size_t{4} * w.rows);
  compute->store(x, in.rows());
  compute->multiply(w, in.rows(), kRows, whole.rows());
  const std::array<ProductRows, 2> runs{{{3, 2, kRows}, {1, 5, kRows}}};
  compute->multiply(w, in.rows().subspan(size_t{2} * w.cols, size_t{4} * w.cols), runs, part.rows());
  std::vector<float> expected(size_t{4} * w.rows);
  std::vector<float> got(expected.size());
  compute->load({whole.data() + size_t{2} * w.rows, 4, w.rows}, w.rows, expected.data());
  compute->load({part.data(), 4, w.rows}, w.rows, got.data());
  EXPECT_EQ(got, expected);
  // And they are right: against f64.
  for (uint32_t row = 0; row < 4; ++row) {
    for (uint32_t c = 0; c < w.rows; ++c) {
      double sum = 0;
      for (uint32_t k = 0; k < w.cols; ++k) {
        sum += double{x[(row + 2) * size_t{w.cols} + k]} * bf16_to_f32(w.values[size_t{c} * w.cols + k]);
      }
      ASSERT_NEAR(got[row * size_t{w.rows} + c], sum, 1e-5) << "row " << row << ", column " << c;
    }
  }
}

TEST_F(CudaEngine, DecoderAndCacheComputeInOnePlace) {
  ThreadPool pool(1);
  Decoder decoder(tiny(), pool, kDevice);
  Cache cache(geometry_of(tiny()), pages(QUIRE_CODEC_ROT4, 0), pool);
  EXPECT_NE(error_of([&] { Session(decoder, cache, 10); }).find("open the cache on that device"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Decoder(tiny(), pool, kDevice + 77); }).find("cuda:77: this machine has"),
            std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
