#include "kvcache/attend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <string>

namespace quire {
namespace {

constexpr size_t kWaveRuns = 32;   // runs computed between two barriers
constexpr size_t kAheadRuns = 64;  // runs held in advance, of this layer and the next
constexpr uint32_t kLeastPartialRows = 2048;

void clear_state(const AttendState& state, uint32_t rows, uint32_t dim) {
  std::fill_n(state.o, size_t{rows} * dim, 0.0F);
  std::fill_n(state.m, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(state.l, rows, 0.0F);
}

AttendState offset_state(const AttendState& state, uint32_t row, uint32_t dim) {
  return {state.o + size_t{row} * dim, state.m + row, state.l + row};
}

bool has_pages(Residency& residency, const PageTable& table, const PageRun& run) {
  const ResidencyLock lock = residency.lock();
  return table.pages.size() >= run.first_page + run.count;
}

// Cuts pieces off a block of memory, 64-byte aligned. With a null base it only adds up.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <typename T>
  T* take(size_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + kPageAlign - 1) / kPageAlign * kPageAlign;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace

// What one thread of a wave works with.
struct Attender::Lane {
  uint8_t* scratch;     // of the kernels
  float* keys;          // [page_tokens][head_dim], pre_rope only
  float* queries;       // [kMaxTileRows][head_dim], pre_rope only
  float* angles;        // [2][head_dim / 2], pre_rope only
  int32_t* begin;       // [kMaxTileRows]
  int32_t* end;         // [kMaxTileRows]
  AttendState partial;  // [kMaxTileRows]
};

struct Attender::Call {
  Step* step;
  uint32_t layer;
  const LayerConfig& config;
  const AttendArgs& args;
  size_t next_run = 0;    // of the plan: the wave's first
  size_t held_until = 0;  // of the plan: runs before it are or were held
  size_t wave = 0;        // runs of the wave: held_[0 .. wave)

  const StepEntry& entry(const Tile& tile) const { return step->entries[tile.entry]; }
  const Rope& rope(const Tile& tile) const { return entry(tile).sequence->rope; }
};

Result<std::unique_ptr<Attender>> Attender::create(const CacheContext& context) {
  std::unique_ptr<Attender> attender(new Attender(context));
  if (Status status = attender->allocate(); !status.ok()) return status;
  return attender;
}

Attender::~Attender() { release_ahead(); }

Status Attender::allocate() {
  const CacheConfig& config = context_.config;
  const uint32_t dim = config.head_dim;
  const uint32_t threads = context_.executor.threads();
  const size_t rows = size_t{config.max_step_tokens} * config.query_heads;
  const bool pre_rope = config.key_space == KeySpace::kPreRope;
  partial_rows_ = std::max(kLeastPartialRows, threads * kMaxTileRows);
  scratch_bytes_ = context_.kernels.attend_scratch_bytes(kMaxTileRows, config.shape());
  const size_t lane_floats = pre_rope ? size_t{config.page_tokens + kMaxTileRows + 1} * dim : 0;
  lane_bytes_ =
      scratch_bytes_ + lane_floats * sizeof(float) + 2 * kMaxTileRows * sizeof(int32_t) + 4 * kPageAlign;
  lane_bytes_ = (lane_bytes_ + kPageAlign - 1) / kPageAlign * kPageAlign;
  const auto carve = [&](uint8_t* base) {
    Carver carver(base);
    q_ = carver.take<float>(rows * dim);
    total_ = {carver.take<float>(rows * dim), carver.take<float>(rows), carver.take<float>(rows)};
    const size_t partial_rows = partial_rows_;
    partials_ = {carver.take<float>(partial_rows * dim), carver.take<float>(partial_rows),
                 carver.take<float>(partial_rows)};
    base_angles_ = carver.take<float>(pre_rope ? kWaveRuns * kRunPages * dim : 0);
    lanes_ = carver.take<uint8_t>(lane_bytes_ * threads);
    return carver.used();
  };
  Result<BudgetedBytes> work = BudgetedBytes::allocate(context_.host_budget, Use::kWork, carve(nullptr));
  if (!work.ok())
    return {work.status().code(),
            "host_budget has no room for the work space of attention (lower max_step_tokens or raise it): " +
                work.status().message()};
  work_ = std::move(*work);
  carve(work_.data());
  return {};
}

Attender::Lane Attender::lane(uint32_t index) const {
  const uint32_t dim = context_.config.head_dim;
  const bool pre_rope = context_.config.key_space == KeySpace::kPreRope;
  Carver carver(lanes_ + size_t{index} * lane_bytes_);
  Lane lane{};
  lane.scratch = carver.take<uint8_t>(scratch_bytes_);
  if (pre_rope) {
    lane.keys = carver.take<float>(size_t{context_.config.page_tokens} * dim);
    lane.queries = carver.take<float>(size_t{kMaxTileRows} * dim);
    lane.angles = carver.take<float>(dim);
  }
  lane.begin = carver.take<int32_t>(kMaxTileRows);
  lane.end = carver.take<int32_t>(kMaxTileRows);
  lane.partial = partial(index * kMaxTileRows);
  return lane;
}

AttendState Attender::state_of(const Tile& tile) const {
  return offset_state(total_, tile.row, context_.config.head_dim);
}

AttendState Attender::partial(uint32_t row) const {
  return offset_state(partials_, row, context_.config.head_dim);
}

Status Attender::run(Step* step, uint32_t layer, const AttendArgs& args) {
  Call call{step, layer, context_.config.layer[layer], args};
  plan_.build(context_.config, *step, args.window, args.row_mask);
  Status status = prepare(call);
  while (status.ok() && call.next_run < plan_.runs.size()) {
    status = hold_wave(call);
    if (!status.ok()) break;
    compute_wave(call);
    for (size_t i = 0; i < call.wave; ++i) release_run(context_.residency, &held_[i]);
    held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(call.wave));
    call.next_run += call.wave;
  }
  for (HeldRun& run : held_) release_run(context_.residency, &run);
  held_.clear();
  if (status.ok()) finish(call);
  return status;
}

// ---- holding pages ----

void Attender::release_ahead() {
  for (HeldRun& run : ahead_) release_run(context_.residency, &run);
  ahead_.clear();
}

bool Attender::hold_run(Call& call, size_t index) {
  const PageRun& wanted = plan_.runs[index];
  const Sequence& sequence = *call.step->entries[wanted.entry].sequence;
  const PageTable* table = sequence.layers[call.layer].table;
  if (!ahead_.empty()) {
    HeldRun run = ahead_.front();
    ahead_.pop_front();
    if (claim_run(context_.residency, table, wanted.first_page, wanted.count, &run)) {
      held_.push_back(run);
      return true;
    }
    release_ahead();
  }
  HeldRun run;
  const Acquire got =
      acquire_run(context_.residency, table, wanted.first_page, wanted.count, sequence.rope.epoch, &run);
  if (got != Acquire::kHeld) return false;
  count_pages(run);
  held_.push_back(run);
  return true;
}

bool Attender::preload(const Sequence& sequence, uint32_t layer, uint32_t first_page, uint32_t count) {
  const PageTable* table = sequence.layers[layer].table;
  HeldRun run;
  if (preload_run(context_.residency, table, first_page, count, sequence.rope.epoch, &run) !=
      Acquire::kHeld) {
    return false;
  }
  count_pages(run);
  ahead_.push_back(run);
  return true;
}

void Attender::hold_next_layer(Call& call) {
  const uint32_t next = (call.layer + 1) % context_.config.layers;
  while (ahead_.size() < std::min(kAheadRuns, plan_.runs.size())) {
    const PageRun& wanted = plan_.runs[ahead_.size()];
    const Sequence& sequence = *call.step->entries[wanted.entry].sequence;
    // The next layer may not have sealed the step's own pages yet.
    if (!has_pages(context_.residency, *sequence.layers[next].table, wanted)) return;
    if (!preload(sequence, next, wanted.first_page, wanted.count)) return;
  }
}

void Attender::prefetch(const Sequence& sequence, uint32_t layer, uint32_t first_page, uint32_t count) {
  release_ahead();
  const uint32_t end = first_page + count;
  while (first_page < end && ahead_.size() < kAheadRuns) {
    const uint32_t stop = std::min(end, (first_page / kRunPages + 1) * kRunPages);
    if (!preload(sequence, layer, first_page, stop - first_page)) return;
    first_page = stop;
  }
}

void Attender::count_pages(const HeldRun& run) const {
  const auto misses = static_cast<uint64_t>(__builtin_popcount(run.loading));
  context_.counters.page_misses.fetch_add(misses, std::memory_order_relaxed);
  context_.counters.page_hits.fetch_add(run.count - misses, std::memory_order_relaxed);
}

void Attender::read_ahead(Call& call) {
  while (call.held_until < plan_.runs.size() && held_.size() < kAheadRuns) {
    if (!hold_run(call, call.held_until)) return;
    ++call.held_until;
  }
  if (call.held_until < plan_.runs.size()) return;
  bool on_disk = false;
  {
    ResidencyLock lock = context_.residency.lock();
    on_disk = context_.residency.counts(lock).disk_pages > 0;
  }
  if (on_disk) hold_next_layer(call);
}

Status Attender::miss(Call& call, const HeldRun& run, uint32_t page_in_run) {
  const uint32_t first = run.first_page + page_in_run;
  uint32_t count = 1;
  while (page_in_run + count < run.count && run.bytes[page_in_run + count] == nullptr) ++count;
  const StepEntry& entry = call.step->entries[plan_.runs[call.next_run].entry];
  const uint64_t tokens = context_.config.page_tokens;
  call.step->miss = {entry.sequence, call.layer, first * tokens, count * tokens};
  return {StatusCode::kMiss, "tokens " + std::to_string(first * tokens) + " to " +
                                 std::to_string((first + count) * tokens - 1) + " of layer " +
                                 std::to_string(call.layer) +
                                 " are lost; compute their keys and values again and refill them"};
}

Status Attender::hold_wave(Call& call) {
  for (read_ahead(call); held_.empty(); read_ahead(call)) {
    if (Status status = context_.residency.pager()->wait_staging(); !status.ok()) return status;
  }
  if (!run_is_ready(context_.residency, held_.front())) {
    const TraceSpan span(context_.trace, "wait for pages", TraceCategory::kIo, call.layer,
                         held_.front().first_page, held_.front().count);
    const BusyTime waiting(context_.clock, context_.counters.wait_nanoseconds);
    ready_run(context_.residency, &held_.front());
  }
  const size_t split_limit = std::max<size_t>(1, partial_rows_ / std::max(1U, plan_.rows));
  const size_t limit = std::min({kWaveRuns, held_.size(), split_limit});
  for (call.wave = 0; call.wave < limit && run_is_ready(context_.residency, held_[call.wave]); ++call.wave) {
    HeldRun& run = held_[call.wave];
    ready_run(context_.residency, &run);
    for (uint32_t i = 0; i < run.count; ++i) {
      if (run.bytes[i] != nullptr) continue;
      call.next_run += call.wave;  // miss() names the entry of this run
      return miss(call, run, i);
    }
  }
  return {};
}

// ---- computing ----

void Attender::wave_angles(const Call& call) {
  const uint32_t dim = context_.config.head_dim;
  parallel_for(context_.executor, static_cast<uint32_t>(call.wave), [&](uint32_t w) {
    const PageRun& run = plan_.runs[call.next_run + w];
    const Rope& rope = call.step->entries[run.entry].sequence->rope;
    const size_t half = rope.rotary_dim / 2;
    float* cos = base_angles_ + size_t{w} * kRunPages * dim;
    float* sin = cos + kRunPages * half;
    for (uint32_t i = 0; i < run.count; ++i) {
      const uint64_t position = uint64_t{run.first_page + i} * context_.config.page_tokens;
      rope_angles(rope, static_cast<int64_t>(position), cos + i * half, sin + i * half);
    }
  });
}

const uint8_t* Attender::section_of(const Call& call, const HeldRun& run, uint32_t page,
                                    uint32_t kv_head) const {
  const PageLayout& layout = call.config.layout_of(page);
  return run.bytes[page - run.first_page] + layout.header_bytes + size_t{kv_head} * layout.section.bytes;
}

// Where attend_run begins to read; nullptr when the tile sees nothing of the run.
const uint8_t* Attender::first_section(const Call& call, const Tile& tile, size_t wave_index) const {
  const HeldRun& run = held_[wave_index];
  const uint32_t begin = std::max(run.first_page, tile.fold_begin);
  const uint32_t end = std::min(run.first_page + run.count, tile.fold_end);
  const bool sees = tile.entry == plan_.runs[call.next_run + wave_index].entry && begin < end;
  return sees ? section_of(call, run, begin, tile.kv_head) : nullptr;
}

// next: what the lane attends afterwards, to be prefetched; may be null.
void Attender::attend_run(const Call& call, const Tile& tile, size_t wave_index, const uint8_t* next,
                          const Lane& lane, const AttendState& state) const {
  const CacheConfig& config = context_.config;
  const HeldRun& run = held_[wave_index];
  const uint32_t begin = std::max(run.first_page, tile.fold_begin);
  const uint32_t end = std::min(run.first_page + run.count, tile.fold_end);
  std::array<SectionRef, kRunPages> sections;
  for (uint32_t p = begin; p < end; ++p) {
    const SectionEntry& entry = run.pages[p - run.first_page]->entries[tile.kv_head];
    sections[p - begin] = {section_of(call, run, p, tile.kv_head), entry.key_param, entry.value_param};
  }

  const Sequence& sequence = *call.entry(tile).sequence;
  const size_t half = sequence.rope.rotary_dim / 2;
  const float* base_cos = base_angles_ + wave_index * kRunPages * config.head_dim;
  KeyRotation rotation{};
  rotation.token_cos = sequence.offsets.cos.data();
  rotation.token_sin = sequence.offsets.sin.data();
  rotation.rotary_dim = sequence.rope.rotary_dim;
  const bool balanced = in_rotated_space(call.config.key_codec) && !call.config.key_balance.empty();
  rotation.key_balance =
      balanced ? call.config.key_balance.data() + size_t{tile.kv_head} * config.head_dim : nullptr;

  QueryTile rows{q_ + size_t{tile.row} * config.head_dim, tile.rows, nullptr};
  // Pages below this are outside the window of some row.
  const uint64_t masked_below = first_visible(tile.position + tile.tokens - 1, call.args.window);
  for (uint32_t p = begin; p < end;) {
    const uint64_t position = uint64_t{p} * config.page_tokens;
    const uint32_t sinks = call.config.kind_of(p).sink_tokens;
    const bool masked = position < masked_below;
    const uint32_t stop = masked || sinks > 0 ? p + 1 : end;
    rows.first_token = masked ? lane.begin : nullptr;
    for (uint32_t r = 0; masked && r < tile.rows; ++r) {
      const uint64_t first = first_visible(tile.position + r / config.group(), call.args.window);
      lane.begin[r] = static_cast<int32_t>(std::clamp<int64_t>(
          static_cast<int64_t>(first) - static_cast<int64_t>(position), 0, config.page_tokens));
    }
    rotation.base_cos = base_cos + (p - run.first_page) * half;
    rotation.base_sin = rotation.base_cos + kRunPages * half;
    const FoldedPages pages{call.config.key_codec,
                            call.config.value_codec,
                            static_cast<uint8_t>(sinks),
                            config.shape(),
                            call.config.layout_of(p).section,
                            config.key_space == KeySpace::kPreRope ? &rotation : nullptr,
                            stop < end ? sections[stop - begin].section : next};
    context_.kernels.attend_folded(pages, std::span(sections).subspan(p - begin, stop - p), rows, state,
                                   lane.scratch);
    p = stop;
  }
}

void Attender::compute_wave(Call& call) {
  const TraceSpan span(context_.trace, "attend", TraceCategory::kCompute, call.layer,
                       held_.front().first_page, call.wave * kRunPages);
  const uint32_t dim = context_.config.head_dim;
  const uint32_t threads = context_.executor.threads();
  if (context_.config.key_space == KeySpace::kPreRope) wave_angles(call);
  const auto tiles = static_cast<uint32_t>(plan_.tiles.size());
  // With few tiles the runs of the wave are computed side by side and merged afterwards; else a lane takes a
  // tile and merges as it goes. Both merge the same partials in the same order.
  const bool split = tiles < 2 * threads && call.wave > 1 && call.wave * plan_.rows <= partial_rows_;
  const auto runs = static_cast<uint32_t>(call.wave);
  const uint32_t units = split ? tiles * runs : tiles;
  const auto tile_of = [&](uint32_t unit) -> const Tile& { return plan_.tiles[split ? unit / runs : unit]; };
  std::atomic<uint32_t> next{0};
  // What a lane attends after run w of a tile, most likely: the tile's next run, else the first unit that
  // nobody has taken yet.
  const auto section_after = [&](const Tile& tile, uint32_t w) -> const uint8_t* {
    if (!split && w + 1 < runs) return first_section(call, tile, w + 1);
    const uint32_t unit = next.load(std::memory_order_relaxed);
    return unit < units ? first_section(call, tile_of(unit), split ? unit % runs : 0) : nullptr;
  };
  parallel_for(context_.executor, std::min(threads, units), [&](uint32_t lane_index) {
    const BusyTime busy(context_.clock, context_.counters.attend_nanoseconds);
    const Lane mine = lane(lane_index);
    for (uint32_t u = next.fetch_add(1); u < units; u = next.fetch_add(1)) {
      const Tile& tile = tile_of(u);
      for (uint32_t w = split ? u % runs : 0; w < runs; ++w) {
        const AttendState part = split ? partial(w * plan_.rows + tile.row) : mine.partial;
        clear_state(part, tile.rows, dim);
        const bool sees = first_section(call, tile, w) != nullptr;
        if (sees) attend_run(call, tile, w, section_after(tile, w), mine, part);
        if (split) break;
        context_.kernels.merge(state_of(tile), part, tile.rows, dim);
      }
    }
  });
  for (uint32_t t = 0; split && t < tiles; ++t) {
    const Tile& tile = plan_.tiles[t];
    for (uint32_t w = 0; w < runs; ++w) {
      context_.kernels.merge(state_of(tile), partial(w * plan_.rows + tile.row), tile.rows, dim);
    }
  }
}

// ---- queries in, outputs out ----

bool Attender::prepare_tile(const Call& call, const Tile& tile) const {
  const CacheConfig& config = context_.config;
  const uint32_t dim = config.head_dim;
  const bool pre_rope = config.key_space == KeySpace::kPreRope;
  const Rope& rope = call.rope(tile);
  std::array<float, 256> angles;  // cos and sin of at most 128 pairs each
  float* q = q_ + size_t{tile.row} * dim;
  float scale = call.args.softmax_scale * std::numbers::log2e_v<float>;
  if (pre_rope) scale *= rope.attention_factor * rope.attention_factor;
  for (uint32_t t = 0; t < tile.tokens; ++t) {
    if (pre_rope) {
      rope_angles(rope, static_cast<int64_t>(tile.position + t), angles.data(), angles.data() + 128);
    }
    for (uint32_t g = 0; g < config.group(); ++g, q += dim) {
      load_row(call.args.queries, tile.token + t, tile.kv_head * config.group() + g, dim, context_.kernels,
               q);
      if (!context_.kernels.finite(q, dim)) return false;
      if (pre_rope) rotate_rows(q, 1, dim, angles.data(), angles.data() + 128, rope.rotary_dim);
      for (uint32_t c = 0; c < dim; ++c) q[c] *= scale;
    }
  }
  if (!pre_rope && in_rotated_space(call.config.key_codec)) {
    const std::vector<float>& inverse = call.config.inverse_balance;
    const float* diag = inverse.empty() ? nullptr : inverse.data() + size_t{tile.kv_head} * dim;
    context_.kernels.rotate(q_ + size_t{tile.row} * dim, tile.rows, dim, diag);
  }
  clear_state(state_of(tile), tile.rows, dim);
  return true;
}

Status Attender::prepare(Call& call) {
  std::atomic<bool> finite{true};
  parallel_for(context_.executor, static_cast<uint32_t>(plan_.tiles.size()), [&](uint32_t i) {
    if (!prepare_tile(call, plan_.tiles[i])) finite.store(false, std::memory_order_relaxed);
  });
  if (finite.load(std::memory_order_relaxed)) return {};
  return {StatusCode::kNotFinite,
          "the queries of layer " + std::to_string(call.layer) + " hold NaN or infinity"};
}

void Attender::attend_own_pages(Call& call, const Tile& tile, const Lane& lane) {
  const CacheConfig& config = context_.config;
  const uint32_t dim = config.head_dim;
  const FrameRun& run = call.entry(tile).run(call.layer);
  for (uint32_t page = tile.fold_end; page <= tile.own_page; ++page) {
    const auto start = static_cast<int64_t>(page) * config.page_tokens;
    for (uint32_t r = 0; r < tile.rows; ++r) {
      const uint64_t position = tile.position + r / config.group();
      const auto first = static_cast<int64_t>(first_visible(position, call.args.window)) - start;
      lane.begin[r] = static_cast<int32_t>(std::clamp<int64_t>(first, 0, config.page_tokens));
      lane.end[r] = static_cast<int32_t>(
          std::min<int64_t>(static_cast<int64_t>(position) + 1 - start, config.page_tokens));
    }
    const float* keys = run.frame(page) + size_t{tile.kv_head} * config.page_tokens * dim;
    const float* values = keys + config.frame_side_floats();
    QueryTile rows{q_ + size_t{tile.row} * dim, tile.rows, nullptr};
    const auto tokens = static_cast<uint32_t>(*std::max_element(lane.end, lane.end + tile.rows));
    if (config.key_space == KeySpace::kPreRope) {
      const Sequence& sequence = *call.entry(tile).sequence;
      const Rope& rope = sequence.rope;
      const size_t half = rope.rotary_dim / 2;
      std::memcpy(lane.keys, keys, size_t{tokens} * dim * sizeof(float));
      if (in_rotated_space(call.config.key_codec)) {
        context_.kernels.rotate(lane.keys, tokens, dim, nullptr);
        const std::vector<float>& inverse = call.config.inverse_balance;
        for (size_t i = 0; !inverse.empty() && i < size_t{tokens} * dim; ++i) {
          lane.keys[i] *= inverse[size_t{tile.kv_head} * dim + i % dim];
        }
      }
      for (uint32_t t = 0; t < tokens; ++t) {
        for (size_t i = 0; i < half; ++i) {
          lane.angles[i] = sequence.offsets.cos[i * config.page_tokens + t];
          lane.angles[half + i] = sequence.offsets.sin[i * config.page_tokens + t];
        }
        rotate_rows(lane.keys + size_t{t} * dim, 1, dim, lane.angles, lane.angles + half, rope.rotary_dim);
      }
      // Turning the query by minus the page's base leaves small offsets for the keys.
      rope_angles(rope, -start, lane.angles, lane.angles + half);
      std::memcpy(lane.queries, rows.q, size_t{tile.rows} * dim * sizeof(float));
      rotate_rows(lane.queries, tile.rows, dim, lane.angles, lane.angles + half, rope.rotary_dim);
      rows.q = lane.queries;
      keys = lane.keys;
    }
    clear_state(lane.partial, tile.rows, dim);
    const UnfoldedRows unfolded{keys, values, tokens, lane.begin, lane.end};
    context_.kernels.attend_unfolded(unfolded, rows, dim, lane.partial, lane.scratch);
    context_.kernels.merge(state_of(tile), lane.partial, tile.rows, dim);
  }
}

void Attender::finish_tile(const Call& call, const Tile& tile) const {
  const CacheConfig& config = context_.config;
  const uint32_t dim = config.head_dim;
  const AttendState state = state_of(tile);
  // m is not needed any more: it takes the log-sum-exp.
  context_.kernels.finish(state, tile.rows, dim, call.args.lse == nullptr ? nullptr : state.m);
  if (in_rotated_space(call.config.value_codec)) context_.kernels.rotate(state.o, tile.rows, dim, nullptr);
  for (uint32_t r = 0; r < tile.rows; ++r) {
    const uint32_t token = tile.token + r / config.group();
    const uint32_t head = tile.kv_head * config.group() + r % config.group();
    store_row(call.args.out, token, head, dim, context_.kernels, state.o + size_t{r} * dim);
    if (call.args.lse != nullptr) call.args.lse[size_t{token} * config.query_heads + head] = state.m[r];
  }
}

void Attender::finish(Call& call) {
  const auto tiles = static_cast<uint32_t>(plan_.tiles.size());
  std::atomic<uint32_t> next{0};
  parallel_for(context_.executor, std::min(context_.executor.threads(), tiles), [&](uint32_t lane_index) {
    const BusyTime busy(context_.clock, context_.counters.attend_nanoseconds);
    const Lane mine = lane(lane_index);
    for (uint32_t i = next.fetch_add(1); i < tiles; i = next.fetch_add(1)) {
      attend_own_pages(call, plan_.tiles[i], mine);
      finish_tile(call, plan_.tiles[i]);
    }
  });
  if (call.args.row_mask == nullptr) return;
  std::array<float, 256> zeros{};
  for (uint32_t token = 0; token < call.step->tokens; ++token) {
    for (uint32_t head = 0; call.args.row_mask[token] == 0 && head < context_.config.query_heads; ++head) {
      store_row(call.args.out, token, head, context_.config.head_dim, context_.kernels, zeros.data());
    }
  }
}

}  // namespace quire
