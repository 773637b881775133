// A whole engine with made-up keys, values and queries, for tests of everything from append to attend.
//
// Values are a function of (seed, layer, position), so that any chunking appends the same. attend_reference
// is f64 softmax attention over the values as they were handed in.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/engine.h"

namespace quire::testing {

// Before each layer is appended, what the queries of `offset` positions later choose begins to be read.
struct Guess {
  Selection selection;
  uint64_t offset = 0;  // 0: the guess is right
};

struct World {
  uint32_t layers = 2;
  uint32_t query_heads = 4;
  uint32_t kv_heads = 2;
  uint32_t head_dim = 64;
  uint32_t page_tokens = 32;
  uint32_t sink_tokens = 4;
  uint32_t recent_pages = 0;
  uint32_t max_step_tokens = 512;
  CodecId key_codec = CodecId::kRot4;
  CodecId value_codec = CodecId::kRot4;
  KeySpace key_space = KeySpace::kPostRope;
  bool balance = false;
  std::vector<int8_t> key_levels;  // of nuq codecs; empty: the default ones
  std::vector<int8_t> value_levels;
  uint64_t device_budget = 0;
  AttendSpeeds speeds{};
  uint64_t host_budget = uint64_t{64} << 20;
  uint64_t nvme_budget = 0;
  std::string nvme_path = "/tmp";
  uint32_t nvme_compression = 0;
  IoEngineKind io_engine = IoEngineKind::kAuto;
  IoEngineFactory open_io;
  Nanoseconds io_deadline = std::chrono::seconds(30);
  const Clock* clock = nullptr;  // nullptr: the real one
  uint32_t threads = 2;
  bool lazy_device = false;
  bool one_thread = false;  // steps the device and the mover: what happens when depends on nothing else
  uint64_t read_gap = kReadGap;
  std::string trace_path;
  std::string access_trace_path;
  Eviction eviction = Eviction::kAuto;
  const Kernels* kernels = nullptr;  // nullptr: the best of this machine
  bool digests = false;
  Selection selection;        // of every attend
  bool select_alone = false;  // every token chooses for itself
  std::optional<Guess> guess;
  float query_scale = 1;
  uint64_t seed = 1;

  uint32_t kv_row() const { return kv_heads * head_dim; }
  uint32_t query_row() const { return query_heads * head_dim; }
};

EngineOptions engine_options(const World& world);
// Fails the test when the engine does not open.
std::unique_ptr<Engine> open_engine(const World& world);
Rope test_rope(const World& world);

enum class Row : uint64_t { kKey = 1, kValue = 2, kQuery = 3 };

// [count][width] f32 for positions [first, first + count).
std::vector<float> rows(const World& world, Row row, uint32_t layer, uint64_t first, uint64_t count);

TensorView view(const std::vector<float>& rows, uint32_t head_dim, uint32_t heads);

// What a step of one sequence put out: [layer][token][query_heads * head_dim], and lse
// [layer][token][query_heads].
struct Output {
  Status status;
  std::vector<std::vector<float>> out;
  std::vector<std::vector<float>> lse;
  std::vector<std::vector<float>> missed;  // mass, with a selection: [layer][token][query_heads]
  void extend(const Output& more);
};

// Appends and attends positions [first, first + count) in every layer, refilling what is missed.
Output run_step(Engine& engine, const World& world, Sequence* sequence, uint64_t first, uint64_t count,
                uint64_t window = 0);
// The same in chunks; stops at the first failure.
Output run_chunks(Engine& engine, const World& world, Sequence* sequence, uint64_t first, uint64_t count,
                  uint64_t chunk, uint64_t window = 0);

// [query_heads * head_dim] of a query at `position`, in f64 over everything up to it.
std::vector<double> attend_reference(const World& world, uint32_t layer, uint64_t position,
                                     uint64_t window = 0);

// |a - b| / |b| over a row.
double relative_error(const float* a, const std::vector<double>& b);

uint64_t count_refills();  // by run_step, in this process

}  // namespace quire::testing
