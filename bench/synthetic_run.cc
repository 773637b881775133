#include "bench/synthetic_run.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <numbers>
#include <string_view>

#include "bench/memory.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/random.h"

namespace quire::bench {
namespace {

struct Shape {
  std::string_view name;
  uint32_t layers;
  uint32_t query_heads;
  uint32_t kv_heads;
};

constexpr std::array<Shape, 8> kShapes{{{"qwen3-0.6b", 28, 16, 8},
                                        {"qwen3-1.7b", 28, 16, 8},
                                        {"qwen3-4b", 36, 32, 8},
                                        {"qwen3-8b", 36, 32, 8},
                                        {"qwen3-14b", 40, 40, 8},
                                        {"qwen3-32b", 64, 64, 8},
                                        {"qwen3-30b-a3b", 48, 32, 4},
                                        {"tiny", 4, 4, 2}}};
constexpr uint32_t kHeadDim = 128;  // of every Qwen3

// Rows that repeat with this period look like new ones to every page.
constexpr size_t kSpareRows = 509;
constexpr uint32_t kOutlierChannels = 6;
constexpr float kOutlier = 8;

// Normal numbers [rows][width]; in keys a few channels of each head are larger, as in real models.
std::vector<float> make_rows(size_t rows, size_t width, bool with_outliers, qwen3::Random& random) {
  std::vector<float> out(rows * width);
  for (size_t i = 0; i < out.size(); ++i) {
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
    const auto normal = static_cast<float>(radius * std::cos(2 * std::numbers::pi * random.uniform()));
    const bool outlier = with_outliers && i % kHeadDim < kOutlierChannels;
    out[i] = outlier ? normal * kOutlier : normal;
  }
  return out;
}

quire_tensor tensor(const float* data) {
  quire_tensor out{};
  out.data = const_cast<float*>(data);  // the C API has one struct for inputs and outputs
  return out;
}

// A cache with one sequence that is filled and attended with generated rows.
class Filler {
 public:
  Filler(const SyntheticRun& run, qwen3::Cache& cache, const qwen3::CacheGeometry& geometry)
      : cache_(cache.handle()),
        geometry_(geometry),
        choose_ahead_(run.options.cache.choose_ahead),
        random_(run.options.seed) {
    const size_t kv_width = size_t{geometry.kv_heads} * kHeadDim;
    const size_t rows = run.options.cache.chunk_tokens + kSpareRows;
    keys_ = make_rows(rows, kv_width, true, random_);
    values_ = make_rows(rows, kv_width, false, random_);
    queries_ = make_rows(1, size_t{geometry.query_heads} * kHeadDim, false, random_);
    out_.resize(queries_.size());
    qwen3::check(quire_sequence_create(cache_, &sequence_), cache_);
    std::vector<double> inv_freq(kHeadDim / 2);
    for (size_t i = 0; i < inv_freq.size(); ++i) {
      inv_freq[i] = std::pow(1e6, -static_cast<double>(i) / static_cast<double>(inv_freq.size()));
    }
    quire_rope rope{};
    rope.struct_size = sizeof rope;
    rope.rotary_dim = kHeadDim;
    rope.attention_factor = 1;
    rope.inv_freq = inv_freq.data();
    qwen3::check(quire_sequence_set_rope(sequence_, &rope), cache_);
  }

  // Pages that queries attend from here on.
  void select(const qwen3::SelectionOptions& selection) { selection_ = selection; }

  // Appends `count` tokens in every layer and, for one token, attends with a query.
  void pass(uint64_t count, bool with_query) {
    const quire_step_entry entry{sequence_, length_, count};
    quire_step* step = nullptr;
    qwen3::check(quire_step_begin(cache_, &entry, 1, nullptr, &step), cache_);
    quire_status status = QUIRE_OK;
    for (uint32_t layer = 0; layer < geometry_.layers && status == QUIRE_OK; ++layer) {
      status = run_layer(step, layer, with_query);
    }
    // The step must be ended whatever happened; the first failure is the one to tell.
    const std::string sentence = status == QUIRE_OK ? "" : quire_last_error(cache_);
    const quire_status end = quire_step_end(step);
    if (status != QUIRE_OK) throw qwen3::Error(sentence);
    qwen3::check(end, cache_);
    length_ += count;
  }

 private:
  quire_status run_layer(quire_step* step, uint32_t layer, bool with_query) {
    const size_t row = random_.next() % kSpareRows * geometry_.kv_heads * kHeadDim;
    quire_append_args append;
    quire_append_args_init(&append);
    append.keys = tensor(keys_.data() + row);
    append.values = tensor(values_.data() + row);
    const quire_status appended = quire_append(step, layer, &append);
    if (appended != QUIRE_OK || !with_query) return appended;
    quire_attend_args attend;
    quire_attend_args_init(&attend);
    attend.queries = tensor(queries_.data());
    attend.out = tensor(out_.data());
    qwen3::set_selection(selection_, &attend);
    if (choose_ahead_ && layer + 1 < geometry_.layers) {
      const quire_status ahead = quire_choose_ahead(step, layer + 1, &attend);
      if (ahead != QUIRE_OK) return ahead;
    }
    const quire_status attended = quire_attend(step, layer, &attend);
    return attended != QUIRE_OK ? attended : quire_step_wait(step);
  }

  quire_cache* cache_;
  qwen3::CacheGeometry geometry_;
  qwen3::SelectionOptions selection_;
  bool choose_ahead_;
  qwen3::Random random_;
  std::vector<float> keys_;
  std::vector<float> values_;
  std::vector<float> queries_;
  std::vector<float> out_;
  quire_sequence* sequence_ = nullptr;  // freed with the cache
  uint64_t length_ = 0;
};

}  // namespace

qwen3::CacheGeometry find_shape(const std::string& name) {
  std::string known;
  for (const Shape& shape : kShapes) {
    if (shape.name == name) return {shape.layers, shape.query_heads, shape.kv_heads, kHeadDim, {}};
    known += (known.empty() ? "" : ", ") + std::string(shape.name);
  }
  throw qwen3::Error("there is no shape \"" + name + "\"; choose from " + known);
}

std::vector<Row> SyntheticRun::run() const {
  using Clock = std::chrono::steady_clock;
  reset_peak_rss();
  const qwen3::CacheGeometry geometry = find_shape(shape);
  qwen3::Cache cache(geometry, options.cache, pool);
  const std::unique_ptr<LiveView> view = watch ? watch(cache) : nullptr;
  Filler filler(*this, cache, geometry);

  const auto start = Clock::now();
  const auto since = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  for (uint64_t first = 0; first < context;) {
    const uint64_t count = std::min<uint64_t>(options.cache.chunk_tokens, context - first);
    filler.pass(count, false);
    first += count;
    on_progress(first);
  }
  Row filled;
  filled.model = shape;
  filled.context = context;
  filled.codec = {options.cache.key_codec, options.cache.value_codec};
  filled.synthetic = true;
  filled.seed = options.seed;
  filled.threads = options.threads;
  filled.prefill_tok_s = static_cast<double>(context) / since(start);
  filled.stats = cache.stats();
  std::vector<Row> rows;
  std::vector<qwen3::SelectionOptions> selections{qwen3::SelectionOptions{}};
  if (options.cache.select.kind != QUIRE_SELECT_NONE) selections.push_back(options.cache.select);
  selections.insert(selections.end(), also.begin(), also.end());
  for (const qwen3::SelectionOptions& selection : selections) {
    filler.select(selection);
    const quire_stats before = cache.stats();
    Row& row = rows.emplace_back(filled);
    for (uint32_t i = 0; i < decode; ++i) {
      const auto token = Clock::now();
      filler.pass(1, true);
      row.decode_seconds.push_back(since(token));
    }
    row.stats = cache.stats();
    set_selection({}, selection, before, row.stats, &row);
    row.stats = without(row.stats, filled.stats, before);
    row.peak_rss = peak_rss();
  }
  return rows;
}

}  // namespace quire::bench
