#include "tests/support/engine_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire::testing {
namespace {

uint64_t refills = 0;

}  // namespace

uint64_t count_refills() { return refills; }

EngineOptions engine_options(const World& world) {
  EngineOptions options;
  CacheConfig& config = options.config;
  config.layers = world.layers;
  config.query_heads = world.query_heads;
  config.kv_heads = world.kv_heads;
  config.head_dim = world.head_dim;
  config.page_tokens = world.page_tokens;
  config.sink_tokens = world.sink_tokens;
  config.recent_pages = world.recent_pages;
  config.max_step_tokens = world.max_step_tokens;
  config.digests = world.digests;
  config.speeds = world.speeds;
  config.key_space = world.key_space;
  LayerConfig layer;
  layer.key_codec = world.key_codec;
  layer.value_codec = world.value_codec;
  layer.key_levels = world.key_levels;
  layer.value_levels = world.value_levels;
  for (uint32_t i = 0; world.balance && i < world.kv_row(); ++i) {
    layer.key_balance.push_back(0.5F + 0.25F * static_cast<float>(i % (world.head_dim / 2) % 7));
  }
  config.layer.assign(world.layers, layer);
  options.device_budget = world.device_budget;
  options.host_budget = world.host_budget;
  options.nvme_budget = world.nvme_budget;
  options.nvme_path = world.nvme_path;
  options.nvme_compression = world.nvme_compression;
  options.io_engine = world.io_engine;
  options.io_deadline = world.io_deadline;
  options.clock = world.clock;
  options.read_gap = world.read_gap;
  options.open_io = world.open_io;
  options.threads = world.threads;
  options.trace_path = world.trace_path;
  options.access_trace_path = world.access_trace_path;
  options.eviction = world.eviction;
  options.device.lazy = world.lazy_device || world.one_thread;
  if (world.one_thread) options.mover_drive = MoverDrive::kCallers;
  options.kernels = world.kernels != nullptr ? world.kernels : &best_kernels();
  return options;
}

std::unique_ptr<Engine> open_engine(const World& world) {
  Result<std::unique_ptr<Engine>> engine = Engine::open(engine_options(world));
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

TensorView view(const std::vector<float>& rows, uint32_t head_dim, uint32_t heads) {
  return {rows.data(), DType::kF32, uint64_t{heads} * head_dim, head_dim};
}

void Output::extend(const Output& more) {
  status = more.status;
  out.resize(std::max(out.size(), more.out.size()));
  lse.resize(out.size());
  missed.resize(out.size());
  for (size_t i = 0; i < more.out.size(); ++i) {
    out[i].insert(out[i].end(), more.out[i].begin(), more.out[i].end());
    lse[i].insert(lse[i].end(), more.lse[i].begin(), more.lse[i].end());
    missed[i].insert(missed[i].end(), more.missed[i].begin(), more.missed[i].end());
  }
}

namespace {

Status refill(Engine& engine, const World& world, const Miss& miss) {
  const std::vector<float> keys = rows(world, Row::kKey, miss.layer, miss.first, miss.count);
  const std::vector<float> values = rows(world, Row::kValue, miss.layer, miss.first, miss.count);
  ++refills;
  return engine.cache().refill(miss.sequence, miss.layer, miss.first, miss.count,
                               view(keys, world.head_dim, world.kv_heads),
                               view(values, world.head_dim, world.kv_heads));
}

Status guess_choice(Cache& cache, const World& world, OpenStep* step, uint32_t layer, uint64_t first,
                    uint64_t count, uint64_t window) {
  const std::vector<float> queries = rows(world, Row::kQuery, layer, first + world.guess->offset, count);
  const AttendArgs args{world.query_scale / std::sqrt(static_cast<float>(world.head_dim)),
                        view(queries, world.head_dim, world.query_heads),
                        {},
                        window,
                        nullptr,
                        nullptr,
                        world.guess->selection};
  const Status status = cache.choose_ahead(step, layer, args);
  return status.ok() ? cache.wait(step) : status;
}

Status run_layer(Engine& engine, const World& world, OpenStep* step, uint32_t layer, uint64_t first,
                 uint64_t count, uint64_t window, Output* output) {
  Cache& cache = engine.cache();
  const std::vector<float> keys = rows(world, Row::kKey, layer, first, count);
  const std::vector<float> values = rows(world, Row::kValue, layer, first, count);
  const std::vector<float> queries = rows(world, Row::kQuery, layer, first, count);
  output->out[layer].assign(count * world.query_row(), std::numeric_limits<float>::quiet_NaN());
  output->lse[layer].assign(count * world.query_heads, std::numeric_limits<float>::quiet_NaN());
  Status status;
  if (world.guess) status = guess_choice(cache, world, step, layer, first, count, window);
  if (!status.ok()) return status;
  status = cache.append(step, layer, view(keys, world.head_dim, world.kv_heads),
                        view(values, world.head_dim, world.kv_heads));
  if (!status.ok()) return status;
  const TensorView q = view(queries, world.head_dim, world.query_heads);
  Selection selection = world.selection;
  output->missed[layer].assign(selection.kind == SelectionKind::kNone ? 0 : count * world.query_heads, -1.0F);
  const std::vector<uint8_t> alone(count, 1);
  selection.missed_mass = output->missed[layer].data();
  selection.start = world.select_alone ? alone.data() : nullptr;
  const AttendArgs args{world.query_scale / std::sqrt(static_cast<float>(world.head_dim)),
                        q,
                        {output->out[layer].data(), DType::kF32, q.token_stride, q.head_stride},
                        window,
                        output->lse[layer].data(),
                        nullptr,
                        selection};
  for (int attempt = 0; attempt < 1000; ++attempt) {
    status = cache.attend(step, layer, args);
    if (status.ok()) status = cache.wait(step);
    if (status.code() != StatusCode::kMiss) return status;
    const Status filled = refill(engine, world, cache.miss(step));
    if (!filled.ok()) return filled;
  }
  return status;
}

}  // namespace

Output run_step(Engine& engine, const World& world, Sequence* sequence, uint64_t first, uint64_t count,
                uint64_t window) {
  Output output;
  output.out.resize(world.layers);
  output.lse.resize(world.layers);
  output.missed.resize(world.layers);
  const StepRequest request{sequence, first, count};
  Result<std::unique_ptr<OpenStep>> step = engine.cache().begin({&request, 1});
  output.status = step.status();
  for (uint32_t layer = 0; layer < world.layers && output.status.ok(); ++layer) {
    output.status = run_layer(engine, world, step->get(), layer, first, count, window, &output);
  }
  if (step.ok()) {
    const Status end = engine.cache().end(step->get());
    if (output.status.ok()) output.status = end;
  }
  return output;
}

Output run_chunks(Engine& engine, const World& world, Sequence* sequence, uint64_t first, uint64_t count,
                  uint64_t chunk, uint64_t window) {
  Output all;
  for (uint64_t done = 0; done < count && all.status.ok(); done += chunk) {
    all.extend(run_step(engine, world, sequence, first + done, std::min(chunk, count - done), window));
  }
  return all;
}

}  // namespace quire::testing
