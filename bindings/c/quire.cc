// The functions of the C API, in the order of quire.h. Each finds its object, checks its arguments and calls
// the engine.
#include "bindings/c/quire.h"

#include <liburing.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "bindings/c/api.h"
#include "bindings/c/options.h"
#include "bindings/c/prometheus.h"
#include "bindings/c/stats.h"
#include "bindings/cuda.h"

namespace {

using quire::Engine;
using quire::HandleKind;
using quire::HandleTable;
using quire::invalid;
using quire::Result;
using quire::Status;
using quire::StatusCode;
using quire::capi::CacheObject;
using quire::capi::find_cache;
using quire::capi::find_sequence;
using quire::capi::find_step;
using quire::capi::Found;
using quire::capi::guarded;
using quire::capi::guarded_with;
using quire::capi::number;
using quire::capi::SequenceObject;
using quire::capi::StepObject;

template <typename Handle>
Handle* as_handle(uintptr_t value) {
  return reinterpret_cast<Handle*>(value);  // NOLINT: a number, never followed
}

// NULL out parameters are the caller's mistake, not ours to crash on.
Status check_out(const void* out) { return out == nullptr ? invalid("the out pointer is NULL") : Status(); }

bool probe_io_uring() {
  io_uring ring{};
  if (io_uring_queue_init(2, &ring, 0) != 0) return false;
  io_uring_queue_exit(&ring);
  return true;
}

// What the engine's stream has been given so far comes before what the step is given next.
Status follow_stream(const StepObject& step) {
  if (step.stream == nullptr) return {};
  Result<std::unique_ptr<quire::Event>> event = step.engine->page_device()->mark(step.stream);
  if (!event.ok()) return event.status();
  return step.engine->cache().run_after(step.step.get(), std::move(*event));
}

// Everything but `out`.
Result<quire::AttendArgs> attend_args(const quire_attend_args* args, const Engine& engine) {
  if (args == nullptr) return invalid("args is NULL");
  if (Status s = quire::check_struct(*args, "quire_attend_args"); !s.ok()) return s;
  const quire::CacheConfig& config = engine.config();
  const bool device = engine.page_device() != nullptr;
  const auto queries =
      quire::tensor_view(args->queries, "queries", config.query_heads, config.head_dim, device);
  if (!queries.ok()) return queries.status();
  float scale = args->softmax_scale;
  if (scale == 0) scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim));
  if (!std::isfinite(scale)) return invalid("softmax_scale is not finite");
  const Result<quire::Selection> selection = quire::selection_of(*args, config);
  if (!selection.ok()) return selection.status();
  return quire::AttendArgs{scale, *queries, {}, args->window, args->lse, args->row_mask, *selection};
}

quire_sequence* publish_sequence(uintptr_t cache, Engine* engine, quire::Sequence* sequence) {
  auto object = std::make_unique<SequenceObject>(SequenceObject{engine, sequence});
  const uintptr_t handle = HandleTable::instance().add(HandleKind::kSequence, object.get(), cache);
  static_cast<void>(object.release());  // the handle owns it: taken back when the sequence is freed
  return as_handle<quire_sequence>(handle);
}

template <typename Object>
std::unique_ptr<Object> take_back(HandleKind kind, uintptr_t handle) {
  std::unique_ptr<Object> object(static_cast<Object*>(HandleTable::instance().find(kind, handle)));
  HandleTable::instance().remove(handle);
  return object;
}

}  // namespace

// ---- status, version ----

const char* quire_strerror(quire_status status) {
  switch (status) {
    case QUIRE_OK:
      return "ok";
    case QUIRE_MISS:
      return "pages are lost and must be refilled";
    case QUIRE_NOT_READY:
      return "work is still running";
    case QUIRE_INVALID:
      return "invalid argument";
    case QUIRE_OVER_BUDGET:
      return "over a byte budget";
    case QUIRE_IO:
      return "input or output failed";
    case QUIRE_DEADLINE:
      return "deadline passed";
    case QUIRE_UNSUPPORTED:
      return "not supported by this build or machine";
    case QUIRE_NOT_FINITE:
      return "NaN or infinity in the input";
    case QUIRE_DEVICE_LOST:
      return "device lost";
    case QUIRE_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

const char* quire_version(void) { return "0.1.0"; }

quire_status quire_capabilities(quire_capabilities_info* out) {
  return guarded(0, [&]() -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    if (Status s = quire::check_struct_size(out->struct_size, sizeof *out, "quire_capabilities_info");
        !s.ok())
      return s;
    const Result<const quire::Kernels*> kernels = quire::select_kernels(std::getenv("QUIRE_ISA"));
    if (!kernels.ok()) return kernels.status();
    out->io_uring = probe_io_uring() ? 1 : 0;
    out->cuda = quire::count_cuda_devices() > 0 ? 1 : 0;
    out->isa = quire::isa_name((*kernels)->isa);
    out->codecs =
        "f32 bf16 int8 int4 int3 int2 rot4 rot3 rot2 tcq4 tcq3 tcq2 tcq1 nuq4 nuq3 nuq2 nuq4s nuq3s nuq2s";
    return {};
  });
}

// ---- options ----

void quire_options_init(quire_options* options) {
  *options = {};
  options->struct_size = sizeof *options;
  options->page_tokens = 64;
  options->sink_tokens = 4;
  options->host_budget = uint64_t{1} << 30;
  options->io_depth = 64;
  options->io_deadline_ms = 30000;
  options->max_step_tokens = 512;
}

void quire_layer_options_init(quire_layer_options* options) {
  *options = {};
  options->struct_size = sizeof *options;
}

void quire_append_args_init(quire_append_args* args) {
  *args = {};
  args->struct_size = sizeof *args;
}

void quire_attend_args_init(quire_attend_args* args) {
  *args = {};
  args->struct_size = sizeof *args;
}

// ---- caches ----

quire_status quire_open(const quire_options* options, quire_cache** out) {
  if (out != nullptr) *out = nullptr;
  return guarded(0, [&]() -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    if (options == nullptr)
      return invalid("options is NULL; fill in a quire_options with quire_options_init");
    if (Status s = quire::check_struct(*options, "quire_options"); !s.ok()) return s;
    Result<quire::EngineOptions> engine_options = quire::engine_options(*options);
    if (!engine_options.ok()) return engine_options.status();
    Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(*engine_options));
    if (!engine.ok()) return engine.status();
    *out = quire::capi::adopt(std::move(*engine));
    return {};
  });
}

quire_cache* quire::capi::adopt(std::unique_ptr<Engine> engine) {
  auto object = std::make_unique<CacheObject>(CacheObject{std::move(engine)});
  const uintptr_t handle = HandleTable::instance().add(HandleKind::kCache, object.get(), 0);
  static_cast<void>(object.release());  // the handle owns it: taken back by quire_close
  return as_handle<quire_cache>(handle);
}

quire_status quire_close(quire_cache* cache) {
  if (cache == nullptr) return QUIRE_OK;
  return guarded_with(find_cache(cache), [&](const Found<CacheObject>& found) -> Status {
    Engine& engine = *found.object->engine;
    for (const uintptr_t handle : HandleTable::instance().owned_by(number(cache), HandleKind::kStep)) {
      const auto step = take_back<StepObject>(HandleKind::kStep, handle);
      static_cast<void>(engine.cache().end(step->step.get()));  // its tokens go with the cache
    }
    for (const uintptr_t handle : HandleTable::instance().owned_by(number(cache), HandleKind::kSequence)) {
      take_back<SequenceObject>(HandleKind::kSequence, handle);
    }
    const auto object = take_back<CacheObject>(HandleKind::kCache, number(cache));
    return object->engine->close();
  });
}

const char* quire_last_error(const quire_cache* cache) { return quire::capi::last_error(number(cache)); }

// ---- sequences ----

quire_status quire_sequence_create(quire_cache* cache, quire_sequence** out) {
  if (out != nullptr) *out = nullptr;
  return guarded_with(find_cache(cache), [&](const Found<CacheObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    Engine* engine = found.object->engine.get();
    const Result<quire::Sequence*> sequence = engine->cache().create_sequence();
    if (!sequence.ok()) return sequence.status();
    *out = publish_sequence(found.cache, engine, *sequence);
    return {};
  });
}

quire_status quire_sequence_fork(quire_sequence* sequence, quire_sequence** out) {
  if (out != nullptr) *out = nullptr;
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    Engine* engine = found.object->engine;
    const Result<quire::Sequence*> copy = engine->cache().fork(found.object->sequence);
    if (!copy.ok()) return copy.status();
    *out = publish_sequence(found.cache, engine, *copy);
    return {};
  });
}

quire_status quire_sequence_truncate(quire_sequence* sequence, uint64_t length) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) {
    return found.object->engine->cache().truncate(found.object->sequence, length);
  });
}

quire_status quire_sequence_length(const quire_sequence* sequence, uint64_t* out) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    *out = found.object->engine->cache().length(found.object->sequence);
    return {};
  });
}

quire_status quire_sequence_free(quire_sequence* sequence) {
  if (sequence == nullptr) return QUIRE_OK;
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    if (Status s = found.object->engine->cache().free(found.object->sequence); !s.ok()) return s;
    take_back<SequenceObject>(HandleKind::kSequence, number(sequence));
    return {};
  });
}

quire_status quire_sequence_set_rope(quire_sequence* sequence, const quire_rope* rope) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    if (rope == nullptr) return invalid("rope is NULL");
    Result<quire::Rope> value = quire::rope_of(*rope);
    if (!value.ok()) return value.status();
    return found.object->engine->cache().set_rope(found.object->sequence, std::move(*value));
  });
}

// ---- steps ----

quire_status quire_step_begin(quire_cache* cache, const quire_step_entry* entries, size_t entry_count,
                              const quire_step_options* options, quire_step** out) {
  if (out != nullptr) *out = nullptr;
  return guarded_with(find_cache(cache), [&](const Found<CacheObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    if (entries == nullptr && entry_count > 0) return invalid("entries is NULL");
    if (options != nullptr) {
      Status s = quire::check_struct(*options, "quire_step_options");
      if (s.ok() && options->stream != nullptr && found.object->engine->page_device() == nullptr)
        s = {StatusCode::kUnsupported,
             "a stream needs a CUDA device: open the cache with device = QUIRE_DEVICE_CUDA, or pass NULL"};
      if (!s.ok()) return s;
    }
    auto object = std::make_unique<StepObject>();
    object->engine = found.object->engine.get();
    object->stream = options == nullptr ? nullptr : options->stream;
    std::vector<quire::StepRequest> requests;
    for (size_t i = 0; i < entry_count; ++i) {
      const Result<Found<SequenceObject>> sequence = find_sequence(entries[i].sequence);
      if (!sequence.ok()) return sequence.status();
      if (sequence->cache != found.cache)
        return invalid("entry " + std::to_string(i) + " is a sequence of another cache");
      requests.push_back({sequence->object->sequence, entries[i].first, entries[i].count});
      object->sequences.emplace_back(sequence->object->sequence, number(entries[i].sequence));
    }
    Result<std::unique_ptr<quire::OpenStep>> step = object->engine->cache().begin(requests);
    if (!step.ok()) return step.status();
    object->step = std::move(*step);
    *out = as_handle<quire_step>(HandleTable::instance().add(HandleKind::kStep, object.get(), found.cache));
    static_cast<void>(object.release());  // the handle owns it: taken back by quire_step_end
    return {};
  });
}

quire_status quire_append(quire_step* step, uint32_t layer, const quire_append_args* args) {
  return guarded_with(find_step(step), [&](const Found<StepObject>& found) -> Status {
    if (args == nullptr) return invalid("args is NULL");
    if (Status s = quire::check_struct(*args, "quire_append_args"); !s.ok()) return s;
    const quire::CacheConfig& config = found.object->engine->config();
    const bool device = found.object->engine->page_device() != nullptr;
    const auto keys = quire::tensor_view(args->keys, "keys", config.kv_heads, config.head_dim, device);
    if (!keys.ok()) return keys.status();
    const auto values = quire::tensor_view(args->values, "values", config.kv_heads, config.head_dim, device);
    if (!values.ok()) return values.status();
    if (Status s = follow_stream(*found.object); !s.ok()) return s;
    return found.object->engine->cache().append(found.object->step.get(), layer, *keys, *values);
  });
}

quire_status quire_attend(quire_step* step, uint32_t layer, const quire_attend_args* args) {
  return guarded_with(find_step(step), [&](const Found<StepObject>& found) -> Status {
    Result<quire::AttendArgs> attend = attend_args(args, *found.object->engine);
    if (!attend.ok()) return attend.status();
    const quire::CacheConfig& config = found.object->engine->config();
    const bool device = found.object->engine->page_device() != nullptr;
    const auto out =
        quire::mutable_tensor_view(args->out, "out", config.query_heads, config.head_dim, device);
    if (!out.ok()) return out.status();
    attend->out = *out;
    if (Status s = follow_stream(*found.object); !s.ok()) return s;
    return found.object->engine->cache().attend(found.object->step.get(), layer, *attend);
  });
}

quire_status quire_choose_ahead(quire_step* step, uint32_t layer, const quire_attend_args* args) {
  return guarded_with(find_step(step), [&](const Found<StepObject>& found) -> Status {
    const Result<quire::AttendArgs> attend = attend_args(args, *found.object->engine);
    if (!attend.ok()) return attend.status();
    if (Status s = follow_stream(*found.object); !s.ok()) return s;
    return found.object->engine->cache().choose_ahead(found.object->step.get(), layer, *attend);
  });
}

quire_status quire_step_wait(quire_step* step) {
  return guarded_with(find_step(step), [](const Found<StepObject>& found) {
    return found.object->engine->cache().wait(found.object->step.get());
  });
}

quire_status quire_step_poll(quire_step* step) {
  return guarded_with(find_step(step), [](const Found<StepObject>& found) {
    return found.object->engine->cache().poll(found.object->step.get());
  });
}

quire_status quire_step_eventfd(quire_step* step, int* out) {
  return guarded_with(find_step(step), [&](const Found<StepObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    const Result<int> fd = found.object->engine->cache().event_fd(found.object->step.get());
    if (!fd.ok()) return fd.status();
    *out = *fd;
    return {};
  });
}

quire_status quire_step_miss(const quire_step* step, quire_miss* out) {
  return guarded_with(find_step(step), [&](const Found<StepObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    if (Status s = quire::check_struct_size(out->struct_size, sizeof *out, "quire_miss"); !s.ok()) return s;
    const quire::Miss miss = found.object->engine->cache().miss(found.object->step.get());
    if (miss.sequence == nullptr) return invalid("no attend of this step has missed");
    out->layer = miss.layer;
    out->first = miss.first;
    out->count = miss.count;
    for (const auto& [sequence, handle] : found.object->sequences) {
      if (sequence == miss.sequence) out->sequence = as_handle<quire_sequence>(handle);
    }
    return {};
  });
}

quire_status quire_step_end(quire_step* step) {
  return guarded_with(find_step(step), [&](const Found<StepObject>& found) {
    const Status status = found.object->engine->cache().end(found.object->step.get());
    take_back<StepObject>(HandleKind::kStep, number(step));
    return status;
  });
}

quire_status quire_refill(quire_sequence* sequence, uint32_t layer, uint64_t first, uint64_t count,
                          const quire_tensor* keys, const quire_tensor* values) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    if (keys == nullptr || values == nullptr) return invalid("keys or values is NULL");
    const quire::CacheConfig& config = found.object->engine->config();
    const auto key_view = quire::tensor_view(*keys, "keys", config.kv_heads, config.head_dim, false);
    if (!key_view.ok()) return key_view.status();
    const auto value_view = quire::tensor_view(*values, "values", config.kv_heads, config.head_dim, false);
    if (!value_view.ok()) return value_view.status();
    return found.object->engine->cache().refill(found.object->sequence, layer, first, count, *key_view,
                                                *value_view);
  });
}

// ---- tiers ----

quire_status quire_flush(quire_cache* cache) {
  return guarded_with(find_cache(cache),
                      [](const Found<CacheObject>& found) { return found.object->engine->cache().flush(); });
}

quire_status quire_prefetch(quire_sequence* sequence, uint32_t layer, uint64_t first, uint64_t count) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) {
    return found.object->engine->cache().prefetch(found.object->sequence, layer, first, count);
  });
}

quire_status quire_cache_stats(quire_cache* cache, quire_stats* out) {
  return guarded_with(find_cache(cache), [&](const Found<CacheObject>& found) -> Status {
    if (Status s = check_out(out); !s.ok()) return s;
    if (Status s = quire::check_struct_size(out->struct_size, sizeof *out, "quire_stats"); !s.ok()) return s;
    quire::capi::fill_stats(*found.object->engine, out);
    return {};
  });
}

quire_status quire_cache_prometheus(quire_cache* cache, char* text, uint64_t size, uint64_t* length) {
  return guarded_with(find_cache(cache), [&](const Found<CacheObject>& found) -> Status {
    if (Status s = check_out(length); !s.ok()) return s;
    if (text == nullptr && size > 0) return quire::invalid("text is NULL and size is not 0");
    quire_stats stats{};
    stats.struct_size = sizeof stats;
    quire::capi::fill_stats(*found.object->engine, &stats);
    const std::string all = quire::capi::prometheus_text(*found.object->engine, stats);
    *length = all.size();
    if (all.size() >= size) {
      return quire::invalid("the text has " + std::to_string(all.size()) +
                            " bytes and a 0 behind them, and size is " + std::to_string(size) +
                            "; come back with more");
    }
    std::copy_n(all.c_str(), all.size() + 1, text);
    return {};
  });
}
