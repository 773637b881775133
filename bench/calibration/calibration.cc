#include "bench/calibration/calibration.h"

#include <xxhash.h>

#include <cstdio>

#include "bench/qwen3/error.h"

namespace quire::bench {
namespace {

class Hash {
 public:
  template <typename T>
  void add(const std::vector<T>& values) {
    hash_ = XXH3_64bits_withSeed(values.data(), values.size() * sizeof(T), hash_);
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0;
};

CodecPair named(const Mix& mix) { return {QUIRE_CODEC_DEFAULT, QUIRE_CODEC_DEFAULT, mix.budget}; }

const Mix& find_mix(const Calibration* calibration, const CodecPair& codec) {
  if (calibration == nullptr) {
    throw qwen3::Error("\"" + codec.name() + "\" needs a calibration; give one with --calibration FILE");
  }
  if (calibration->mixes.empty()) {
    throw qwen3::Error("the calibration holds no mix of codecs; run quire-calibrate with --budget BITS");
  }
  if (codec.mix == CodecPair::kOnlyMix && calibration->mixes.size() == 1) return calibration->mixes[0];
  std::string known;
  for (const Mix& mix : calibration->mixes) {
    if (named(mix).name() == codec.name()) return mix;
    known += (known.empty() ? "" : ", ") + named(mix).name();
  }
  throw qwen3::Error("the calibration has no single mix \"" + codec.name() + "\"; choose from " + known);
}

void override_params(const qwen3::LayerParams& from, qwen3::LayerParams* to) {
  if (!from.key_balance.empty()) to->key_balance = from.key_balance;
  if (!from.key_levels.empty()) to->key_levels = from.key_levels;
  if (!from.value_levels.empty()) to->value_levels = from.value_levels;
}

}  // namespace

uint64_t fingerprint(const qwen3::Model& model) {
  const qwen3::ModelConfig& config = model.config;
  Hash hash;
  hash.add(std::vector<uint32_t>{config.layers, config.query_heads, config.kv_heads, config.head_dim,
                                 config.hidden_size, config.vocab_size});
  for (const qwen3::LayerWeights& layer : model.weights.layers) {
    hash.add(layer.query_norm);
    hash.add(layer.key_norm);
    hash.add(layer.qkv_bias);
    hash.add(layer.qkv.values);
    hash.add(layer.output.values);
    hash.add(layer.down.values);
  }
  hash.add(model.weights.final_norm);
  return hash.value();
}

Calibration empty_calibration(const qwen3::Model& model) {
  Calibration out;
  out.model = fingerprint(model);
  out.query_heads = model.config.query_heads;
  out.kv_heads = model.config.kv_heads;
  out.head_dim = model.config.head_dim;
  out.layers.resize(model.config.layers);
  return out;
}

void check_model(const Calibration& calibration, const qwen3::Model& model, const std::string& name) {
  if (calibration.model == fingerprint(model)) return;
  throw qwen3::Error(name + " was made for another model than " + model.name +
                     "; run quire-calibrate with this one");
}

qwen3::CacheGeometry calibrated_geometry(const qwen3::Model& model, const Calibration* calibration,
                                         const CodecPair& codec) {
  qwen3::CacheGeometry geometry = qwen3::geometry_of(model);
  geometry.params.resize(geometry.layers);
  for (uint32_t layer = 0; calibration != nullptr && layer < geometry.layers; ++layer) {
    override_params(calibration->layers[layer].params, &geometry.params[layer]);
  }
  if (codec.mix == CodecPair::kNoMix) return geometry;
  const Mix& mix = find_mix(calibration, codec);
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    geometry.params[layer].key_codec = mix.layers[layer].key;
    geometry.params[layer].value_codec = mix.layers[layer].value;
  }
  return geometry;
}

std::string budget_name(float budget) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", static_cast<double>(budget));
  return text;
}

}  // namespace quire::bench
