#include "bindings/c/options.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "bindings/cuda.h"

namespace quire {
namespace {

CodecId codec_or(quire_codec codec, CodecId fallback) {
  return codec == QUIRE_CODEC_DEFAULT ? fallback : static_cast<CodecId>(codec);
}

// The codec says how many there are; for a codec without levels one is taken, so that it is refused.
void assign_levels(const int8_t* levels, CodecId id, std::vector<int8_t>* out) {
  if (levels == nullptr) return;
  const CodecInfo* codec = find_codec(id);
  const bool has_levels = codec != nullptr && codec->family == CodecFamily::kNonUniform;
  out->assign(levels, levels + (has_levels ? size_t{1} << codec->bits : 1));
}

Status apply_layer_options(const quire_options& options, CacheConfig* config) {
  for (uint32_t i = 0; i < options.layer_option_count; ++i) {
    const quire_layer_options& from = options.layer_options[i];
    if (Status s = check_struct(from, "quire_layer_options"); !s.ok()) return s;
    if (from.layer >= config->layers) {
      return invalid("layer_options[" + std::to_string(i) + "] is for layer " + std::to_string(from.layer) +
                     " but the model has " + std::to_string(config->layers));
    }
    LayerConfig& layer = config->layer[from.layer];
    layer.key_codec = codec_or(from.key_codec, layer.key_codec);
    layer.value_codec = codec_or(from.value_codec, layer.value_codec);
    if (from.key_balance != nullptr) {
      layer.key_balance.assign(from.key_balance,
                               from.key_balance + size_t{config->kv_heads} * config->head_dim);
    }
    assign_levels(from.key_levels, layer.key_codec, &layer.key_levels);
    assign_levels(from.value_levels, layer.value_codec, &layer.value_levels);
  }
  return {};
}

Status check_io(const quire_options& options) {
  if (options.nvme_budget == 0) return {};
  if (options.io_engine > QUIRE_IO_THREADS) {
    return invalid("io_engine is " + std::to_string(options.io_engine) +
                   "; use QUIRE_IO_AUTO, _URING or _THREADS");
  }
  if (options.io_depth < 8)
    return invalid("io_depth is " + std::to_string(options.io_depth) + "; use at least 8");
  if (options.nvme_compression > kMaxCompressionLevel) {
    return invalid("nvme_compression is " + std::to_string(options.nvme_compression) +
                   "; use 0 for none, or a level of 1 to " + std::to_string(kMaxCompressionLevel));
  }
  if (options.io_deadline_ms == 0) return invalid("io_deadline_ms is 0; every request would be late");
  return {};
}

}  // namespace

Status check_struct_size(uint32_t got, size_t expected, const char* name) {
  if (got == expected) return {};
  return invalid(std::string(name) + ".struct_size is " + std::to_string(got) + ", expected " +
                 std::to_string(expected) +
                 ": call its init function, and build with the header of this library's version");
}

Result<EngineOptions> engine_options(const quire_options& options) {
  EngineOptions out;
  CacheConfig& config = out.config;
  config.layers = options.layers;
  config.query_heads = options.query_heads;
  config.kv_heads = options.kv_heads;
  config.head_dim = options.head_dim;
  config.page_tokens = options.page_tokens;
  config.sink_tokens = options.sink_tokens;
  config.recent_pages = options.recent_pages;
  config.max_step_tokens = options.max_step_tokens;
  if (options.digests > 1) {
    return invalid("digests is " + std::to_string(options.digests) + "; use 0, or 1 to keep them");
  }
  config.digests = options.digests == 1;
  if (options.key_space > QUIRE_PRE_ROPE) {
    return invalid("key_space is " + std::to_string(options.key_space) +
                   "; use QUIRE_POST_ROPE or QUIRE_PRE_ROPE");
  }
  if (config.layers > 1024) return invalid("layers is " + std::to_string(config.layers) + "; use 1..1024");
  config.key_space = static_cast<KeySpace>(options.key_space);
  const CodecId default_key = config.key_space == KeySpace::kPreRope ? CodecId::kInt4 : CodecId::kRot4;
  LayerConfig layer;
  layer.key_codec = codec_or(options.key_codec, default_key);
  layer.value_codec = codec_or(options.value_codec, CodecId::kRot4);
  config.layer.assign(config.layers, layer);
  if (options.layer_option_count > 0 && options.layer_options == nullptr) {
    return invalid("layer_option_count is set but layer_options is NULL");
  }
  if (Status status = apply_layer_options(options, &config); !status.ok()) return status;
  if (Status status = check_io(options); !status.ok()) return status;

  config.speeds = {static_cast<double>(options.device_link_speed),
                   static_cast<double>(options.host_attend_speed),
                   static_cast<double>(options.device_attend_speed)};
  out.device_budget = options.device_budget;
  out.host_budget = options.host_budget;
  out.nvme_budget = options.nvme_budget;
  out.nvme_write_budget_per_day = options.nvme_write_budget_per_day;
  out.nvme_compression = options.nvme_compression;
  if (options.nvme_path != nullptr) out.nvme_path = options.nvme_path;
  out.io_engine = static_cast<IoEngineKind>(options.io_engine);
  out.io_depth = options.io_depth;
  out.io_deadline = std::chrono::milliseconds(options.io_deadline_ms);
  out.threads = options.threads;
  out.parallel_for = options.parallel_for;
  out.parallel_context = options.parallel_context;
  if (options.trace_path != nullptr) out.trace_path = options.trace_path;
  if (options.store_path != nullptr) out.store_path = options.store_path;
  out.store_budget = options.store_budget;
  out.model_fingerprint = {options.model_fingerprint[0], options.model_fingerprint[1]};
  if (options.access_trace_path != nullptr) out.access_trace_path = options.access_trace_path;
  if (options.eviction > QUIRE_EVICT_FREQUENCY) {
    return invalid("eviction is " + std::to_string(options.eviction) +
                   "; use QUIRE_EVICT_AUTO, _NEWEST, _LRU, _S3FIFO, _MASS or _FREQUENCY");
  }
  out.eviction = static_cast<Eviction>(options.eviction);
  Result<const Kernels*> kernels = select_kernels(std::getenv("QUIRE_ISA"));
  if (!kernels.ok()) return kernels.status();
  out.kernels = *kernels;
  if (options.device != QUIRE_DEVICE_CPU) {
    Result<PageDeviceFactory> factory = cuda_page_device_factory(options.device - QUIRE_DEVICE_CUDA);
    if (!factory.ok()) return factory.status();
    out.open_page_device = std::move(*factory);
  }
  return out;
}

Result<Rope> rope_of(const quire_rope& rope) {
  if (Status s = check_struct(rope, "quire_rope"); !s.ok()) return s;
  if (rope.inv_freq == nullptr && rope.rotary_dim != 0) return invalid("quire_rope.inv_freq is NULL");
  if (rope.rotary_dim > 256)
    return invalid("rotary_dim is " + std::to_string(rope.rotary_dim) + "; at most head_dim");
  Rope out;
  out.epoch = rope.epoch;
  out.rotary_dim = rope.rotary_dim;
  out.attention_factor = rope.attention_factor;
  out.inv_freq.assign(rope.inv_freq, rope.inv_freq + rope.rotary_dim / 2);
  return out;
}

Result<PrefixChain> chain_of(const quire_prefix& prefix, const Engine& engine) {
  if (Status s = check_struct(prefix, "quire_prefix"); !s.ok()) return s;
  if (prefix.shared > 1) return invalid("shared is " + std::to_string(prefix.shared) + "; use 0 or 1");
  const bool has_tenant = prefix.tenant[0] != 0 || prefix.tenant[1] != 0;
  if (has_tenant == (prefix.shared == 1)) {
    return invalid(has_tenant
                       ? "tenant is set and so is shared: blocks are either a tenant's own or shared"
                       : "tenant is zero: give each tenant a secret of its own, or set shared to 1 so that "
                         "all who do so see each other's blocks");
  }
  if (prefix.tokens == nullptr && prefix.count > 0) return invalid("quire_prefix.tokens is NULL");
  if (prefix.count > UINT32_MAX)
    return invalid("a prefix of " + std::to_string(prefix.count) + " tokens is longer than any sequence");
  const PrefixScope scope{engine.model_fingerprint(),
                          {prefix.tenant[0], prefix.tenant[1]},
                          prefix.adapter,
                          prefix.rope_epoch,
                          layout_hash(engine.config())};
  PrefixChain chain = make_chain(scope, engine.config().page_tokens,
                                 std::span(prefix.tokens, static_cast<size_t>(prefix.count)));
  for (size_t i = 0; i < chain.blocks() && prefix.notes != nullptr; ++i) {
    std::copy_n(prefix.notes + i * kNoteBytes, kNoteBytes, chain.notes[i].begin());
  }
  return chain;
}

namespace {

template <typename View>
Result<View> make_view(const quire_tensor& tensor, const char* name, uint32_t heads, uint32_t head_dim,
                       bool device) {
  const std::string what(name);
  if (tensor.data == nullptr) return invalid("tensor " + what + " has no data");
  if (tensor.dtype > QUIRE_F16)
    return invalid("tensor " + what + " has an unknown dtype; use QUIRE_F32, _BF16 or _F16");
  if (tensor.place > QUIRE_PLACE_DEVICE)
    return invalid("tensor " + what + " has an unknown place; use QUIRE_PLACE_HOST or _DEVICE");
  if (tensor.place == QUIRE_PLACE_DEVICE && !device)
    return Status(
        StatusCode::kUnsupported,
        "tensor " + what +
            " lies on a device, which steps of a cache with device = QUIRE_DEVICE_CUDA take; hand in "
            "host memory");
  View view;
  view.on_device = tensor.place == QUIRE_PLACE_DEVICE;
  view.data = tensor.data;
  view.dtype = static_cast<DType>(tensor.dtype);
  view.head_stride = tensor.head_stride == 0 ? head_dim : tensor.head_stride;
  view.token_stride = tensor.token_stride == 0 ? uint64_t{heads} * head_dim : tensor.token_stride;
  if (reinterpret_cast<uintptr_t>(tensor.data) % dtype_bytes(view.dtype) != 0) {
    return invalid("tensor " + what + " is not aligned to its element size");
  }
  return view;
}

}  // namespace

Result<Selection> selection_of(const quire_attend_args& args, const CacheConfig& config) {
  Selection out;
  if (args.selection == QUIRE_SELECT_NONE) return out;
  if (args.selection > QUIRE_SELECT_MASS) {
    return invalid("selection is " + std::to_string(args.selection) +
                   "; use QUIRE_SELECT_NONE, _TOP_PAGES or _MASS");
  }
  if (!config.digests) {
    return invalid("selection needs the digests of pages; open the cache with digests set to 1");
  }
  if (args.selection == QUIRE_SELECT_MASS && !(args.select_mass > 0 && args.select_mass <= 1)) {
    return invalid("select_mass is " + std::to_string(args.select_mass) + "; use more than 0, at most 1");
  }
  if (args.selection == QUIRE_SELECT_TOP_PAGES && !(args.select_share >= 0 && args.select_share <= 1)) {
    return invalid("select_share is " + std::to_string(args.select_share) + "; use 0 to 1");
  }
  if (args.select_check > 1) {
    return invalid("select_check is " + std::to_string(args.select_check) + "; use 0 or 1");
  }
  out.kind = static_cast<SelectionKind>(args.selection);
  out.pages = args.select_pages;
  out.share = args.select_share;
  out.mass = args.select_mass;
  out.window = args.select_window;
  out.check = args.select_check == 1;
  out.start = args.select_start;
  out.missed_mass = args.missed_mass;
  return out;
}

Result<TensorView> tensor_view(const quire_tensor& tensor, const char* name, uint32_t heads,
                               uint32_t head_dim, bool device) {
  return make_view<TensorView>(tensor, name, heads, head_dim, device);
}

Result<MutableTensorView> mutable_tensor_view(const quire_tensor& tensor, const char* name, uint32_t heads,
                                              uint32_t head_dim, bool device) {
  return make_view<MutableTensorView>(tensor, name, heads, head_dim, device);
}

}  // namespace quire
