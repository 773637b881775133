#include "bench/quality/inspection.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire::bench {
namespace {

class RowKeeper : public qwen3::Observer {
 public:
  explicit RowKeeper(std::vector<LayerRows>* layers) : layers_(layers) {}
  void on_hidden(uint32_t, std::span<const float>) override {}
  void on_qkv(uint32_t, std::span<const float>) override {}
  void on_rotated_qkv(uint32_t layer, std::span<const float> rows) override {
    std::vector<float>& kept = (*layers_)[layer].rows;
    kept.insert(kept.end(), rows.begin(), rows.end());
  }
  void on_attention(uint32_t, std::span<const float>) override {}

 private:
  std::vector<LayerRows>* layers_;
};

// How a row of queries, keys and values is divided.
struct RowShape {
  uint32_t query_heads;
  uint32_t kv_heads;
  size_t dim;

  size_t stride() const { return (query_heads + size_t{2} * kv_heads) * dim; }
  size_t keys_at(uint32_t head) const { return (query_heads + head) * dim; }
  size_t values_at(uint32_t head) const { return (query_heads + kv_heads + head) * dim; }
};

RowShape shape_of(const qwen3::ModelConfig& config) {
  return {config.query_heads, config.kv_heads, config.head_dim};
}

quire_tensor tensor(const float* data, size_t stride) {
  quire_tensor out{};
  out.data = const_cast<float*>(data);  // the C API has one struct for inputs and outputs
  out.token_stride = stride;
  return out;
}

// Attention of one layer over its own rows, through a cache of one layer: [n][H * D].
std::vector<float> attend(const qwen3::Cache& cache, const RowShape& shape, const std::vector<float>& rows) {
  const size_t n = rows.size() / shape.stride();
  const size_t out_stride = shape.query_heads * shape.dim;
  std::vector<float> out(n * out_stride);
  quire_sequence* sequence = nullptr;  // freed with the cache
  qwen3::check(quire_sequence_create(cache.handle(), &sequence), cache.handle());
  const uint64_t chunk = cache.options().chunk_tokens;
  for (uint64_t first = 0; first < n; first += chunk) {
    const quire_step_entry entry{sequence, first, std::min<uint64_t>(chunk, n - first)};
    quire_step* step = nullptr;
    qwen3::check(quire_step_begin(cache.handle(), &entry, 1, nullptr, &step), cache.handle());
    const float* from = rows.data() + first * shape.stride();
    quire_append_args kv;
    quire_append_args_init(&kv);
    kv.keys = tensor(from + shape.keys_at(0), shape.stride());
    kv.values = tensor(from + shape.values_at(0), shape.stride());
    qwen3::check(quire_append(step, 0, &kv), cache.handle());
    quire_attend_args args;
    quire_attend_args_init(&args);
    args.queries = tensor(from, shape.stride());
    args.out = tensor(out.data() + first * out_stride, 0);
    qwen3::check(quire_attend(step, 0, &args), cache.handle());
    qwen3::check(quire_step_wait(step), cache.handle());
    qwen3::check(quire_step_end(step), cache.handle());
  }
  return out;
}

SideFacts facts_of(const std::vector<float>& rows, size_t stride, size_t at, size_t dim) {
  SideFacts facts;
  facts.low.assign(dim, std::numeric_limits<float>::infinity());
  facts.high.assign(dim, -std::numeric_limits<float>::infinity());
  std::vector<double> squares(dim);
  const size_t n = rows.size() / stride;
  for (size_t t = 0; t < n; ++t) {
    for (size_t c = 0; c < dim; ++c) {
      const float x = rows[t * stride + at + c];
      facts.low[c] = std::min(facts.low[c], x);
      facts.high[c] = std::max(facts.high[c], x);
      squares[c] += double{x} * double{x};
    }
  }
  facts.peak = 0;
  for (size_t c = 0; c < dim; ++c) {
    const double rms = std::sqrt(squares[c] / static_cast<double>(n));
    facts.rms.push_back(static_cast<float>(rms));
    const double largest = std::max(std::abs(double{facts.low[c]}), std::abs(double{facts.high[c]}));
    if (rms > 0) facts.peak = std::max(facts.peak, largest / rms);
  }
  uint64_t outliers = 0;
  for (size_t t = 0; t < n; ++t) {
    for (size_t c = 0; c < dim; ++c) {
      outliers += std::abs(double{rows[t * stride + at + c]}) > kOutlierRms * double{facts.rms[c]} ? 1 : 0;
    }
  }
  facts.outliers = static_cast<double>(outliers) / static_cast<double>(n * dim);
  std::vector<float> sorted = facts.rms;
  std::sort(sorted.begin(), sorted.end());
  facts.spread = double{sorted.back()} / std::max(double{sorted[dim / 2]}, 1e-30);
  return facts;
}

// Relative L2 of the query heads of one kv head.
double error_of(const RowShape& shape, uint32_t kv_head, const std::vector<float>& exact,
                const std::vector<float>& folded) {
  const size_t stride = shape.query_heads * shape.dim;
  const size_t width = stride / shape.kv_heads;
  double error = 0;
  double norm = 0;
  for (size_t row = 0; row < exact.size(); row += stride) {
    for (size_t i = row + kv_head * width; i < row + (kv_head + 1) * width; ++i) {
      const double difference = double{folded[i]} - double{exact[i]};
      error += difference * difference;
      norm += double{exact[i]} * double{exact[i]};
    }
  }
  return norm > 0 ? std::sqrt(error / norm) : 0;
}

}  // namespace

std::vector<LayerRows> capture_rows(const CacheSetup& setup, qwen3::Decoder& decoder, Window window) {
  std::vector<LayerRows> layers(decoder.model().config.layers);
  RowKeeper keeper(&layers);
  qwen3::Cache cache = setup.open({QUIRE_CODEC_BF16, QUIRE_CODEC_BF16});
  qwen3::Session session(decoder, cache, window.size());
  const uint64_t chunk = cache.options().chunk_tokens;
  for (uint64_t first = 0; first < window.size(); first += chunk) {
    session.read(window.subspan(first, std::min<uint64_t>(chunk, window.size() - first)), 0, &keeper);
  }
  return layers;
}

std::vector<HeadFacts> inspect_layer(const CacheSetup& setup, const qwen3::Decoder& decoder, uint32_t layer,
                                     const LayerRows& rows, std::span<const quire_codec> codecs) {
  const RowShape shape = shape_of(decoder.model().config);
  std::vector<HeadFacts> heads;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    heads.push_back({layer, head, facts_of(rows.rows, shape.stride(), shape.keys_at(head), shape.dim),
                     facts_of(rows.rows, shape.stride(), shape.values_at(head), shape.dim)});
  }
  const auto attended = [&](const CodecPair& codec) {
    return attend(setup.open_layer(layer, codec), shape, rows.rows);
  };
  const std::vector<float> exact = attended({QUIRE_CODEC_F32, QUIRE_CODEC_F32});
  for (const quire_codec codec : codecs) {
    const std::vector<float> keys = attended({codec, QUIRE_CODEC_F32});
    const std::vector<float> values = attended({QUIRE_CODEC_F32, codec});
    for (HeadFacts& head : heads) {
      head.keys.output_errors.push_back(error_of(shape, head.head, exact, keys));
      head.values.output_errors.push_back(error_of(shape, head.head, exact, values));
    }
  }
  return heads;
}

}  // namespace quire::bench
