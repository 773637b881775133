#include "bench/qwen3/cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "bench/qwen3/error.h"

namespace quire::qwen3 {
namespace {

struct CodecName {
  std::string_view name;
  quire_codec codec;
};

constexpr std::array<CodecName, 19> kCodecs{{{"f32", QUIRE_CODEC_F32},
                                             {"bf16", QUIRE_CODEC_BF16},
                                             {"int8", QUIRE_CODEC_INT8},
                                             {"int4", QUIRE_CODEC_INT4},
                                             {"int3", QUIRE_CODEC_INT3},
                                             {"int2", QUIRE_CODEC_INT2},
                                             {"rot4", QUIRE_CODEC_ROT4},
                                             {"rot3", QUIRE_CODEC_ROT3},
                                             {"rot2", QUIRE_CODEC_ROT2},
                                             {"tcq4", QUIRE_CODEC_TCQ4},
                                             {"tcq3", QUIRE_CODEC_TCQ3},
                                             {"tcq2", QUIRE_CODEC_TCQ2},
                                             {"tcq1", QUIRE_CODEC_TCQ1},
                                             {"nuq4", QUIRE_CODEC_NUQ4},
                                             {"nuq3", QUIRE_CODEC_NUQ3},
                                             {"nuq2", QUIRE_CODEC_NUQ2},
                                             {"nuq4s", QUIRE_CODEC_NUQ4S},
                                             {"nuq3s", QUIRE_CODEC_NUQ3S},
                                             {"nuq2s", QUIRE_CODEC_NUQ2S}}};

// Root mean square of a weight over the two channels of a rotary pair.
float pair_rms(std::span<const float> weight, size_t pair) {
  const float a = weight[pair];
  const float b = weight[pair + weight.size() / 2];
  return std::sqrt((a * a + b * b) / 2);
}

std::vector<float> balance_of(const LayerWeights& layer) {
  constexpr float kLimit = 1024;  // quire.h: within [2^-10, 2^10]
  const size_t dim = layer.key_norm.size();
  std::vector<float> balance(dim);
  for (size_t pair = 0; pair < dim / 2; ++pair) {
    const float ratio = pair_rms(layer.query_norm, pair) / pair_rms(layer.key_norm, pair);
    // A weight of zeros on either side leaves nothing to balance.
    const float s = std::isfinite(ratio) ? std::clamp(std::sqrt(ratio), 1 / kLimit, kLimit) : 1.0f;
    balance[pair] = balance[pair + dim / 2] = s;
  }
  return balance;
}

void run_loop(void* pool, uint32_t count, void (*function)(void*, uint32_t), void* argument) {
  static_cast<ThreadPool*>(pool)->parallel_for(count, [=](uint32_t i) { function(argument, i); });
}

// The cache reads as many levels as the codec's name says there are: 2^4 of nuq4.
size_t level_count(quire_codec codec) {
  const std::string name = codec_name(codec);
  const size_t digit = name.find_first_of("0123456789");
  return digit == std::string::npos ? 0 : size_t{1} << (name[digit] - '0');
}

// Those of the codec that a side has; nullptr: the default ones.
const int8_t* levels_for(const std::vector<CodecLevels>& books, quire_codec of_layer, quire_codec of_cache) {
  const quire_codec codec = of_layer == QUIRE_CODEC_DEFAULT ? of_cache : of_layer;
  for (const CodecLevels& book : books) {
    if (book.codec != codec) continue;
    if (book.levels.size() == level_count(codec)) return book.levels.data();
    throw Error("there are " + std::to_string(book.levels.size()) + " levels for " + codec_name(codec) +
                "; calibrate again with quire-calibrate");
  }
  return nullptr;
}

std::vector<quire_layer_options> layer_options(const CacheGeometry& geometry, const CacheOptions& options) {
  std::vector<quire_layer_options> layers;
  for (const LayerParams& params : geometry.params) {
    quire_layer_options& out = layers.emplace_back();
    quire_layer_options_init(&out);
    out.layer = static_cast<uint32_t>(layers.size() - 1);
    out.key_codec = params.key_codec;
    out.value_codec = params.value_codec;
    out.key_balance = params.key_balance.empty() ? nullptr : params.key_balance.data();
    out.key_levels = levels_for(params.key_levels, params.key_codec, options.key_codec);
    out.value_levels = levels_for(params.value_levels, params.value_codec, options.value_codec);
  }
  return layers;
}

const char* c_string(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

}  // namespace

CacheGeometry geometry_of(const Model& model) {
  const ModelConfig& config = model.config;
  CacheGeometry out{config.layers, config.query_heads, config.kv_heads, config.head_dim, {}};
  for (const LayerWeights& layer : model.weights.layers) {
    const std::vector<float> balance = balance_of(layer);
    std::vector<float>& of_heads = out.params.emplace_back().key_balance;
    for (uint32_t head = 0; head < config.kv_heads; ++head) {
      of_heads.insert(of_heads.end(), balance.begin(), balance.end());
    }
  }
  return out;
}

quire_codec parse_codec(const std::string& name) {
  std::string known;
  for (const CodecName& codec : kCodecs) {
    if (codec.name == name) return codec.codec;
    known += (known.empty() ? "" : ", ") + std::string(codec.name);
  }
  throw Error("there is no codec \"" + name + "\"; choose from " + known);
}

std::string codec_name(quire_codec codec) {
  for (const CodecName& known : kCodecs) {
    if (known.codec == codec) return std::string(known.name);
  }
  return "default";
}

void check(quire_status status, const quire_cache* cache) {
  if (status == QUIRE_OK) return;
  const char* last = quire_last_error(cache);
  const std::string sentence = *last == '\0' ? quire_strerror(status) : last;
  if (status == QUIRE_OVER_BUDGET) throw OverBudget(sentence);
  throw Error(sentence);
}

Cache::Cache(const CacheGeometry& geometry, const CacheOptions& options, ThreadPool& pool,
             const OpenCache& open)
    : options_(options) {
  const std::vector<quire_layer_options> layers = layer_options(geometry, options);
  quire_options out;
  quire_options_init(&out);
  out.layers = geometry.layers;
  out.query_heads = geometry.query_heads;
  out.kv_heads = geometry.kv_heads;
  out.head_dim = geometry.head_dim;
  out.page_tokens = options.page_tokens;
  out.sink_tokens = options.sink_tokens;
  out.key_codec = options.key_codec;
  out.value_codec = options.value_codec;
  out.key_space = options.key_space;
  out.layer_options = layers.empty() ? nullptr : layers.data();
  out.layer_option_count = static_cast<uint32_t>(layers.size());
  out.device_budget = options.device_budget;
  out.device = options.device;
  out.device_link_speed = options.device_link_speed;
  out.host_attend_speed = options.host_attend_speed;
  out.device_attend_speed = options.device_attend_speed;
  out.host_budget = options.host_budget;
  out.nvme_budget = options.nvme_budget;
  out.nvme_path = c_string(options_.nvme_path);
  out.nvme_compression = options.nvme_compression;
  out.io_engine = options.io_engine;
  out.parallel_for = run_loop;
  out.parallel_context = &pool;
  out.threads = pool.threads();
  // A replay hands in whole pages.
  out.max_step_tokens = std::max(options.chunk_tokens, options.page_tokens);
  out.trace_path = c_string(options_.trace_path);
  out.store_path = c_string(options_.store_path);
  out.store_budget = options_.store_path.empty() ? 0 : options_.store_budget;
  std::copy(options_.fingerprint.begin(), options_.fingerprint.end(), out.model_fingerprint);
  out.access_trace_path = c_string(options_.access_trace_path);
  out.eviction = options_.eviction;
  const bool selects = options.prefill.kind != QUIRE_SELECT_NONE || options.select.kind != QUIRE_SELECT_NONE;
  out.digests = selects || options.digests ? 1 : 0;
  quire_cache* handle = nullptr;
  check(open(&out, &handle), nullptr);
  handle_.reset(handle);
}

quire_stats Cache::stats() const {
  quire_stats stats{};
  stats.struct_size = sizeof stats;
  check(quire_cache_stats(handle(), &stats), handle());
  return stats;
}

void Cache::Close::operator()(quire_cache* cache) const {
  // There is nobody left to tell: what could fail is writing the trace.
  [[maybe_unused]] const quire_status status = quire_close(cache);
}

}  // namespace quire::qwen3
