// Selective attention: which pages each tile attends, and what that misses.
//
// Digests are read without Residency's lock: tables and digests change on the compute stream alone, which
// waits here.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "kvcache/attend_call.h"
#include "quant/carver.h"
#include "quant/digest.h"

namespace quire {
namespace {

// Room grows in steps, so that a context that grows does not ask for more every few tokens.
constexpr uint32_t kPageStep = 512;
// Enough to hide the way to memory of page records and digests.
constexpr uint32_t kScoredTogether = 256;
constexpr float kMassUnits = 1 << 20;  // of SelectionSpace::mass, per share of 1

struct LaneParts {
  DigestQuery* queries;  // [group]
  float* pooled;         // [head_dim]
  float* mass;           // [group][pages]
  float* peak;           // [group][pages]
  float* weight;         // [pages]
  uint32_t* order;       // [pages]
  uint8_t* always;       // [pages]
  uint8_t* chosen;       // [pages]
};

LaneParts carve_lane(Carver& carver, const CacheConfig& config, uint32_t pages) {
  LaneParts lane{};
  lane.queries = carver.take<DigestQuery>(config.group());
  lane.pooled = carver.take<float>(config.head_dim);
  lane.mass = carver.take<float>(size_t{config.group()} * pages);
  lane.peak = carver.take<float>(size_t{config.group()} * pages);
  lane.weight = carver.take<float>(pages);
  lane.order = carver.take<uint32_t>(pages);
  lane.always = carver.take<uint8_t>(pages);
  lane.chosen = carver.take<uint8_t>(pages);
  return lane;
}

SelectionSpace carve_space(Carver& carver, const CacheConfig& config, const AttendPlan& plan,
                           uint32_t threads, uint32_t pages) {
  const size_t entries = plan.runs.empty() ? 0 : plan.runs.back().entry + 1;
  SelectionSpace space;
  space.pages = pages;
  space.run_words = pages / kRunPages + 1;
  space.chosen = carver.take<uint16_t>(plan.tiles.size() * space.run_words);
  space.left_out = carver.take<float>(plan.rows);
  space.folded = carver.take<float>(plan.rows);
  space.rest_m = carver.take<float>(plan.rows);
  space.rest_l = carver.take<float>(plan.rows);
  space.mass = carver.take<uint32_t>(entries * pages);
  Carver lane(nullptr);
  carve_lane(lane, config, pages);
  space.lane_bytes = lane.used();
  space.lanes = carver.take<uint8_t>(space.lane_bytes * threads);
  return space;
}

uint32_t last_page(const AttendPlan& plan) {
  uint32_t end = 0;
  for (const Tile& tile : plan.tiles) end = std::max(end, tile.fold_end);
  return end;
}

// The mean query of each head of the group, over the tile's tokens.
void pool_queries(const float* q, const Tile& tile, uint32_t group, uint32_t dim, const LaneParts& lane) {
  for (uint32_t g = 0; g < group; ++g) {
    std::fill_n(lane.pooled, dim, 0.0F);
    for (uint32_t t = 0; t < tile.tokens; ++t) {
      const float* row = q + (size_t{t} * group + g) * dim;
      for (uint32_t c = 0; c < dim; ++c) lane.pooled[c] += row[c];
    }
    const float scale = 1.0F / static_cast<float>(tile.tokens);
    for (uint32_t c = 0; c < dim; ++c) lane.pooled[c] *= scale;
    make_digest_query(lane.pooled, dim, &lane.queries[g]);
  }
}

// The pages that hold tokens of the window before the tile's first query; 0 tokens: none.
uint32_t first_window_page(const CacheConfig& config, uint64_t window, uint64_t position) {
  const uint64_t first = position - std::min(position, window);
  return static_cast<uint32_t>(first / config.page_tokens) + (window == 0 ? 1 : 0);
}

}  // namespace

Status Attender::reserve_selection(const Call& call) {
  const uint32_t pages = (last_page(plan_) / kPageStep + 1) * kPageStep;
  const uint32_t threads = context_.executor.threads();
  Carver size(nullptr);
  carve_space(size, context_.config, plan_, threads, pages);
  if (size.used() > selection_.size()) {
    selection_.reset();
    ResidencyLock lock = context_.residency.lock();
    Result<BudgetedBytes> room =
        context_.residency.new_bytes(lock, Use::kWork, size.used(), "the choice of pages");
    if (!room.ok()) return room.status();
    selection_ = std::move(*room);
  }
  Carver carver(selection_.data());
  space_ = carve_space(carver, context_.config, plan_, threads, pages);
  std::fill_n(space_.chosen, plan_.tiles.size() * space_.run_words, uint16_t{0});
  if (!plan_.runs.empty()) std::fill_n(space_.mass, size_t{plan_.runs.back().entry + 1} * pages, 0U);
  if (call.checked()) {
    std::fill_n(space_.rest_m, plan_.rows, -std::numeric_limits<float>::infinity());
    std::fill_n(space_.rest_l, plan_.rows, 0.0F);
  }
  return {};
}

void Attender::select_tile(const Call& call, uint32_t tile_index, uint8_t* work) {
  const CacheConfig& config = context_.config;
  const Tile& tile = plan_.tiles[tile_index];
  const uint32_t pages = tile.fold_end - tile.fold_begin;
  if (pages == 0) return;
  Carver carver(work);
  const LaneParts lane = carve_lane(carver, config, space_.pages);
  pool_queries(q_ + size_t{tile.row} * config.head_dim, tile, config.group(), config.head_dim, lane);

  const PageTable& table = call.table(tile);
  const uint32_t epoch = call.rope(tile).epoch;
  const uint32_t window = first_window_page(config, call.args.selection.window, tile.position);
  const size_t head = tile.kv_head * digest_bytes(config.shape());
  std::array<const uint8_t*, kScoredTogether> digests;
  for (uint32_t first = 0; first < pages; first += kScoredTogether) {
    const uint32_t count = std::min(kScoredTogether, pages - first);
    for (uint32_t i = 0; i < count; ++i) {
      const Page& page = *table.pages[tile.fold_begin + first + i];
      // A digest of another rope's keys says nothing.
      const bool always =
          page.index == 0 || tile.fold_begin + first + i >= window || page.rope_epoch != epoch;
      lane.always[first + i] = always ? 1 : 0;
      digests[i] = page.digests + head;
    }
    context_.kernels.score_digests({digests.data(), count}, config.shape(), {lane.queries, config.group()},
                                   pages, lane.mass + first, lane.peak + first);
  }
  const SelectionScores scores{config.group(), pages,      lane.mass,  lane.peak,
                               lane.weight,    lane.order, lane.always};
  choose_pages(call.args.selection, scores, lane.chosen, space_.left_out + tile.row);
  uint16_t* words = space_.chosen + tile_index * space_.run_words;
  uint64_t chosen = 0;
  for (uint32_t i = 0; i < pages; ++i) {
    const uint32_t p = tile.fold_begin + i;
    words[p / kRunPages] = static_cast<uint16_t>(words[p / kRunPages] | lane.chosen[i] << p % kRunPages);
    chosen += lane.chosen[i];
  }
  if (call.guessed) return;
  if (context_.residency.watches_use()) add_mass(tile, scores);
  context_.counters.pages_chosen.fetch_add(chosen, std::memory_order_relaxed);
  context_.counters.pages_skipped.fetch_add(pages - chosen, std::memory_order_relaxed);
}

// Whole numbers, so that the order in which threads add does not show.
void Attender::add_mass(const Tile& tile, const SelectionScores& scores) const {
  uint32_t* mass = space_.mass + size_t{tile.entry} * space_.pages + tile.fold_begin;
  for (uint32_t i = 0; i < scores.pages; ++i) {
    float sum = 0;
    for (uint32_t row = 0; row < scores.rows; ++row) sum += scores.mass[size_t{row} * scores.pages + i];
    std::atomic_ref(mass[i]).fetch_add(static_cast<uint32_t>(sum * kMassUnits), std::memory_order_relaxed);
  }
}

// Tells the eviction policy, before the run's pages are let go.
void Attender::note_used(const Call& call, size_t wave_index) {
  const PageRun& plan = plan_.runs[call.next_run + wave_index];
  const HeldRun& run = held_[wave_index];
  std::array<float, kRunPages> mass{};
  size_t masses = 0;
  for (uint32_t left = call.selective() ? run.wanted : 0; left != 0; left &= left - 1) {
    const uint32_t page = run.first_page + static_cast<uint32_t>(std::countr_zero(left));
    mass[masses++] = static_cast<float>(space_.mass[size_t{plan.entry} * space_.pages + page]) / kMassUnits;
  }
  ResidencyLock lock = context_.residency.lock();
  context_.residency.used(
      lock, {std::span(run.pages).first(run.count), run.wanted, plan.guarded & run.wanted,
             std::span(mass).first(masses), call.step->number, call.step->entries[plan.entry].count});
}

// Only what some tile attends is brought up: pages, and of these the kv heads.
void Attender::keep_wanted(Call& call) {
  if (call.checked()) return;
  for (PageRun& run : plan_.runs) {
    run.wanted = 0;
    for (const Tile& tile : plan_.tiles) {
      if (tile.entry != run.entry) continue;
      const uint32_t chosen = chosen_of(tile, run);
      run.wanted |= chosen;
      for (uint32_t left = chosen; left != 0; left &= left - 1) {
        run.heads[static_cast<size_t>(std::countr_zero(left))] |= head_bit(tile.kv_head);
      }
      run.guarded |= window_of(tile, run, call.args.selection.window);
    }
  }
  std::erase_if(plan_.runs, [](const PageRun& run) { return run.wanted == 0; });
}

Status Attender::select(Call& call) {
  if (Status status = reserve_selection(call); !status.ok()) return status;
  const auto tiles = static_cast<uint32_t>(plan_.tiles.size());
  std::atomic<uint32_t> next{0};
  parallel_for(context_.executor, std::min(context_.executor.threads(), tiles), [&](uint32_t lane_index) {
    const BusyTime busy(context_.clock, context_.counters.select_nanoseconds);
    uint8_t* work = space_.lanes + lane_index * space_.lane_bytes;
    for (uint32_t i = next.fetch_add(1); i < tiles; i = next.fetch_add(1)) select_tile(call, i, work);
  });
  keep_wanted(call);
  return {};
}

// Bit i: page first_page + i of the run lies in the tile's window.
uint32_t Attender::window_of(const Tile& tile, const PageRun& run, uint64_t window) const {
  const uint32_t begin = std::max(run.first_page, first_window_page(context_.config, window, tile.position));
  const uint32_t end = std::min(run.first_page + run.count, tile.fold_end);
  return begin < end ? all_pages(end - begin) << (begin - run.first_page) : 0;
}

// Bit i: page first_page + i of the run is chosen by the tile.
uint32_t Attender::chosen_of(const Tile& tile, const PageRun& run) const {
  const auto index = static_cast<size_t>(&tile - plan_.tiles.data());
  const uint32_t word = space_.chosen[index * space_.run_words + run.first_page / kRunPages];
  return word >> run.first_page % kRunPages & all_pages(run.count);
}

// The pages of the run that the tile sees here and does not attend: only their mass is kept.
void Attender::attend_rest(const Call& call, const Tile& tile, size_t wave_index, const Lane& lane) const {
  const uint32_t chosen = chosen_of(tile, plan_.runs[call.next_run + wave_index]);
  const uint32_t rest = seen_pages(call, tile, wave_index) & ~held_[wave_index].on_device & ~chosen;
  if (rest == 0) return;
  const AttendState part = lane.partial;
  clear_state(part, tile.rows, context_.config.head_dim);
  attend_run(call, tile, wave_index, rest, nullptr, lane, part);
  add_rest(tile, part.m, part.l);
}

// m and l: [rows] of a state over pages that the tile left out.
void Attender::add_rest(const Tile& tile, const float* m, const float* l) const {
  for (uint32_t r = 0; r < tile.rows; ++r) {
    float& rest_m = space_.rest_m[tile.row + r];
    float& rest_l = space_.rest_l[tile.row + r];
    if (l[r] == 0) continue;
    const float largest = std::max(rest_m, m[r]);
    rest_l = rest_l * std::exp2(rest_m - largest) + l[r] * std::exp2(m[r] - largest);
    rest_m = largest;
  }
}

void Attender::note_folded(const Tile& tile) const {
  const AttendState state = state_of(tile);
  for (uint32_t r = 0; r < tile.rows; ++r) space_.folded[tile.row + r] = state.m[r] + std::log2(state.l[r]);
}

// The share of each row's mass that lies on pages left out.
void Attender::note_missed(const Call& call, const Tile& tile) const {
  const CacheConfig& config = context_.config;
  const AttendState state = state_of(tile);
  uint64_t units = 0;
  for (uint32_t r = 0; r < tile.rows; ++r) {
    const uint32_t g = r % config.group();
    float rest = -std::numeric_limits<float>::infinity();  // log2 of what was left out
    if (call.checked()) {
      rest = space_.rest_m[tile.row + r] + std::log2(space_.rest_l[tile.row + r]);
    } else if (tile.fold_end > tile.fold_begin) {
      // Digests tell the pages apart better than they tell how much there is: the attended ones are known.
      rest = space_.left_out[tile.row + g] + space_.folded[tile.row + r];
      // Without an attended folded page nothing tells how much the others hold: the worst is reported.
      if (std::isnan(rest)) rest = std::numeric_limits<float>::infinity();
    }
    const float kept = state.m[r] + std::log2(state.l[r]);
    const float missed = 1.0F / (1.0F + std::exp2(kept - rest));
    units += static_cast<uint64_t>(static_cast<double>(missed) * kMissedUnits);
    if (call.args.selection.missed_mass == nullptr) continue;
    const size_t token = tile.token + r / config.group();
    call.args.selection.missed_mass[token * config.query_heads + tile.kv_head * config.group() + g] = missed;
  }
  context_.counters.selected_rows.fetch_add(tile.rows, std::memory_order_relaxed);
  context_.counters.missed_units.fetch_add(units, std::memory_order_relaxed);
}

}  // namespace quire
