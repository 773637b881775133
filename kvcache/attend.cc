#include "kvcache/attend.h"

#include <algorithm>
#include <bit>
#include <string>

#include "kvcache/attend_call.h"
#include "quant/carver.h"

namespace quire {
namespace {

constexpr uint32_t kLeastPartialRows = 2048;
// Assumed until they are seen (placement.h has the units): of a thread, and of a device.
constexpr double kThreadSpeed = 20e9;
constexpr double kDeviceSpeed = 10e12;

AttendState offset_state(const AttendState& state, uint32_t row, uint32_t dim) {
  return {state.o + size_t{row} * dim, state.m + row, state.l + row};
}

}  // namespace

Result<std::unique_ptr<Attender>> Attender::create(const CacheContext& context) {
  std::unique_ptr<Attender> attender(new Attender(context));
  if (Status status = attender->allocate(); !status.ok()) return status;
  if (Status status = attender->measure_link(); !status.ok()) return status;
  return attender;
}

Attender::Attender(const CacheContext& context)
    : context_(context),
      host_speed_(context.config.speeds.host, kThreadSpeed * context.executor.threads()),
      device_speed_(context.config.speeds.device, kDeviceSpeed) {}

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
  release_strangers(*step);
  plan_.build(context_.config, *step, args);
  Status status = prepare(call);
  if (status.ok() && call.selective()) status = select(call);
  while (status.ok() && call.next_run < plan_.runs.size()) {
    status = hold_wave(call);
    if (!status.ok()) break;
    status = compute_wave(call);
    for (size_t i = 0; i < call.wave; ++i) {
      if (status.ok() && context_.residency.watches_use()) note_used(call, i);
    }
    pass_wave(call);
  }
  if (call.selective()) release_layer(*step, layer);
  if (status.ok()) status = end_on_device();
  abandon_device();
  release_passed();
  for (HeldRun& run : held_) release_run(context_.residency, &run);
  held_.clear();
  if (status.ok()) finish(call);
  return status;
}

// The wave's runs are let go, or kept while the device may read them.
void Attender::pass_wave(Call& call) {
  const auto end = held_.begin() + static_cast<ptrdiff_t>(call.wave);
  passed_.insert(passed_.end(), held_.begin(), end);
  held_.erase(held_.begin(), end);
  call.next_run += call.wave;
  if (batch_.waves == 0) release_passed();
}

void Attender::release_passed() {
  for (HeldRun& run : passed_) release_run(context_.residency, &run);
  passed_.clear();
}

bool Attender::hold_run(Call& call, size_t index) {
  const PageRun& wanted = plan_.runs[index];
  const Sequence& sequence = *call.step->entries[wanted.entry].sequence;
  const PageTable* table = sequence.layers[call.layer].table;
  if (!call.selective() && claim_ahead(table, wanted)) return true;
  HeldRun run;
  HeldRun preloaded;
  if (call.selective()) preloaded = take_ahead(table, wanted.first_page);
  std::span<const HeadMask> heads;
  if (call.selective() && !call.checked()) heads = std::span(wanted.heads).first(wanted.count);
  const auto acquire = [&] {
    return acquire_run(context_.residency, table, wanted.first_page, wanted.count, wanted.wanted, heads,
                       context_.config.page_epoch(sequence.rope.epoch), &preloaded, &run);
  };
  Acquire got = acquire();
  // Nothing is under way that will give staging memory back: what is wanted last of what is ahead must.
  while (got == Acquire::kNoStaging && held_.empty() && (!ahead_.empty() || preloaded.count > 0)) {
    if (ahead_.empty()) {
      release_run(context_.residency, &preloaded);
    } else {
      release_run(context_.residency, &ahead_.back());
      ahead_.pop_back();
    }
    got = acquire();
  }
  if (got != Acquire::kHeld) {
    if (preloaded.count > 0) ahead_.push_front(preloaded);
    return false;
  }
  uint32_t early = 0;
  for (uint32_t i = 0; i < run.count; ++i) early |= run.early_heads[i] != 0 ? 1U << i : 0U;
  count_misses(run.loading | (run.guessed ? early : 0));
  count_hits(run.wanted & ~(run.loading | early));
  count_foreseen(run, wanted);
  held_.push_back(run);
  return true;
}

// Pages are misses when their reads begin; what was read for a guess, when it is attended.
void Attender::count_misses(uint32_t pages) const {
  context_.counters.page_misses.fetch_add(static_cast<uint64_t>(std::popcount(pages)),
                                          std::memory_order_relaxed);
}

void Attender::count_hits(uint32_t pages) const {
  context_.counters.page_hits.fetch_add(static_cast<uint64_t>(std::popcount(pages)),
                                        std::memory_order_relaxed);
}

void Attender::read_ahead(Call& call) {
  while (call.held_until < plan_.runs.size() && held_.size() < kAheadRuns) {
    if (!hold_run(call, call.held_until)) return;
    ++call.held_until;
  }
  // What the next layer's queries will choose is not known yet.
  if (call.held_until < plan_.runs.size() || call.selective()) return;
  if (any_on_disk()) hold_next_layer(call);
}

Status Attender::miss(Call& call, const HeldRun& run, uint32_t page_in_run) {
  const uint32_t first = run.first_page + page_in_run;
  uint32_t count = 1;
  const auto lost = [&](uint32_t i) { return (run.wanted >> i & 1U) != 0 && run.bytes[i] == nullptr; };
  while (page_in_run + count < run.count && lost(page_in_run + count)) ++count;
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
  // Small waves let the runs be computed side by side, and keep a chunk's pages in a core's cache. A device
  // wants many pages at once, and takes room for every row's state with each wave.
  const bool small = context_.residency.device() == nullptr;
  const size_t split_limit = std::max<size_t>(1, partial_rows_ / std::max(1U, plan_.rows));
  const size_t limit = std::min({kWaveRuns, held_.size(), small ? split_limit : kWaveRuns});
  for (call.wave = 0; call.wave < limit && run_is_ready(context_.residency, held_[call.wave]); ++call.wave) {
    HeldRun& run = held_[call.wave];
    ready_run(context_.residency, &run);
    for (uint32_t i = 0; i < run.count; ++i) {
      if (run.bytes[i] != nullptr || (run.wanted >> i & 1U) == 0) continue;
      call.next_run += call.wave;  // miss() names the entry of this run
      return miss(call, run, i);
    }
  }
  return {};
}

}  // namespace quire
