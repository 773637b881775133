#include "kvcache/config.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

namespace quire {
namespace {

Status check_geometry(const CacheConfig& c) {
  if (c.layers == 0 || c.layers > 1024)
    return invalid("layers is " + std::to_string(c.layers) + "; use 1..1024");
  if (c.kv_heads == 0 || c.kv_heads > 1024) {
    return invalid("kv_heads is " + std::to_string(c.kv_heads) + "; use 1..1024");
  }
  if (c.query_heads == 0 || c.query_heads % c.kv_heads != 0 || c.query_heads / c.kv_heads > kMaxGroup) {
    return invalid("query_heads is " + std::to_string(c.query_heads) + " with kv_heads " +
                   std::to_string(c.kv_heads) + "; use a multiple of kv_heads, at most 16 times it");
  }
  if (!valid_shape(c.shape())) {
    return invalid("page_tokens is " + std::to_string(c.page_tokens) + " and head_dim " +
                   std::to_string(c.head_dim) +
                   "; use 32, 64 or 128 tokens and head_dim 32..256 in steps of 32");
  }
  if (c.sink_tokens > std::min(kMaxSinkTokens, c.page_tokens)) {
    return invalid("sink_tokens is " + std::to_string(c.sink_tokens) + "; use at most 32 and at most a page");
  }
  if (c.recent_pages > 1024)
    return invalid("recent_pages is " + std::to_string(c.recent_pages) + "; use at most 1024");
  if (c.max_step_tokens == 0 || c.max_step_tokens > 65536) {
    return invalid("max_step_tokens is " + std::to_string(c.max_step_tokens) + "; use 1..65536");
  }
  if (c.digests && c.key_space != KeySpace::kPostRope) {
    return invalid(
        "digests are of keys as queries meet them, and pre_rope keys are rotated only when they are read; "
        "set digests to 0 or use post_rope");
  }
  return {};
}

Status check_balance(const CacheConfig& c, uint32_t index, LayerConfig* layer) {
  if (layer->key_balance.empty()) return {};
  if (layer->key_balance.size() != size_t{c.kv_heads} * c.head_dim) {
    return invalid("key_balance of layer " + std::to_string(index) + " has " +
                   std::to_string(layer->key_balance.size()) + " values; it needs kv_heads * head_dim");
  }
  for (float s : layer->key_balance) {
    if (!(s >= 0x1p-10F && s <= 0x1p10F)) {
      return invalid("key_balance of layer " + std::to_string(index) + " holds " + std::to_string(s) +
                     "; every value must lie within [2^-10, 2^10]");
    }
    layer->inverse_balance.push_back(1.0F / s);
  }
  return {};
}

// Levels are for non-uniform codecs: as many as there are codes, ascending.
Status check_levels(const std::string& name, const CodecInfo& codec, const std::vector<int8_t>& levels) {
  if (levels.empty()) return {};
  if (codec.family != CodecFamily::kNonUniform) {
    return invalid(name + " are given for codec " + std::string(codec.name) +
                   ", which has none of its own; " + "only nuq codecs take levels");
  }
  if (levels.size() != size_t{1} << codec.bits) {
    return invalid(name + " are " + std::to_string(levels.size()) + "; " + std::string(codec.name) +
                   " needs " + std::to_string(1U << codec.bits));
  }
  const bool ascending = std::ranges::adjacent_find(levels, std::greater_equal<>()) == levels.end();
  if (!ascending || levels.front() == INT8_MIN) {
    return invalid(name + " must ascend strictly within -127..127");
  }
  return {};
}

// Identifies what a reader of the layer's pages must have. A balance alone hashes as its bytes.
uint64_t hash_params(const LayerConfig& layer) {
  const std::vector<float>& balance = layer.key_balance;
  if (layer.key_levels.empty() && layer.value_levels.empty()) {
    return balance.empty() ? 0 : XXH3_64bits(balance.data(), balance.size() * sizeof(float));
  }
  std::vector<uint8_t> bytes(balance.size() * sizeof(float));
  if (!balance.empty()) std::memcpy(bytes.data(), balance.data(), bytes.size());
  for (const std::vector<int8_t>* levels : {&layer.key_levels, &layer.value_levels}) {
    bytes.push_back(static_cast<uint8_t>(levels->size()));
    bytes.insert(bytes.end(), levels->begin(), levels->end());
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string codec_names() {
  std::string names;
  for (const CodecInfo& codec : kCodecs) names += (names.empty() ? "" : ", ") + std::string(codec.name);
  return names;
}

Status check_layer(const CacheConfig& c, uint32_t index, LayerConfig* layer) {
  const CodecInfo* key = find_codec(layer->key_codec);
  const CodecInfo* value = find_codec(layer->value_codec);
  if (key == nullptr || value == nullptr) {
    return invalid("layer " + std::to_string(index) +
                   " names an unknown codec; any two of these make a pair: " + codec_names());
  }
  if (Status status = check_balance(c, index, layer); !status.ok()) return status;
  const std::string of_layer = " levels of layer " + std::to_string(index);
  if (Status status = check_levels("the key" + of_layer, *key, layer->key_levels); !status.ok())
    return status;
  if (Status status = check_levels("the value" + of_layer, *value, layer->value_levels); !status.ok())
    return status;
  layer->params_hash = hash_params(*layer);
  // Where keys are turned back on read, the kernels take a diagonal with every rotated codec.
  const bool turned_back = key->space == CodecSpace::kRotated && c.key_space == KeySpace::kPreRope;
  if (turned_back && layer->key_balance.empty()) {
    layer->key_balance.assign(size_t{c.kv_heads} * c.head_dim, 1.0F);
    layer->inverse_balance = layer->key_balance;
  }
  const bool needs_sinks = !key->lossless_bf16 || !value->lossless_bf16;
  layer->kind = {layer->key_codec, layer->value_codec, c.key_space, 0, static_cast<uint16_t>(c.kv_heads),
                 c.shape()};
  layer->first_kind = layer->kind;
  layer->first_kind.sink_tokens = static_cast<uint8_t>(needs_sinks ? c.sink_tokens : 0);
  layer->layout = page_layout(layer->kind);
  layer->first_layout = page_layout(layer->first_kind);
  return {};
}

}  // namespace

uint32_t CacheConfig::largest_page_bytes() const {
  uint32_t bytes = 0;
  for (const LayerConfig& l : layer) bytes = std::max({bytes, l.layout.bytes, l.first_layout.bytes});
  return bytes;
}

Status check_config(CacheConfig* config) {
  if (Status status = check_geometry(*config); !status.ok()) return status;
  if (config->layer.size() != config->layers) {
    return invalid(std::to_string(config->layer.size()) + " layers are configured; the model has " +
                   std::to_string(config->layers));
  }
  for (uint32_t i = 0; i < config->layers; ++i) {
    if (Status status = check_layer(*config, i, &config->layer[i]); !status.ok()) return status;
  }
  return {};
}

}  // namespace quire
