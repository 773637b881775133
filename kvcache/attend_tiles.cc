// Attention of the tiles of one wave: queries in, partials over folded and unfolded pages, outputs out.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <numbers>
#include <string>

#include "kvcache/attend_call.h"

namespace quire {

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
  const uint32_t i = page - run.first_page;
  const bool early = (run.early_heads[i] & head_bit(kv_head)) != 0;
  const uint8_t* bytes = early ? run.early_bytes[i] : run.bytes[i];
  return bytes + layout.header_bytes + size_t{kv_head} * layout.section.bytes;
}

// Bit i: page first_page + i of the run is visible to the tile.
uint32_t Attender::seen_pages(const Call& call, const Tile& tile, size_t wave_index) const {
  const HeldRun& run = held_[wave_index];
  const uint32_t begin = std::max(run.first_page, tile.fold_begin);
  const uint32_t end = std::min(run.first_page + run.count, tile.fold_end);
  if (tile.entry != plan_.runs[call.next_run + wave_index].entry || begin >= end) return 0;
  return all_pages(end - begin) << (begin - run.first_page);
}

// Of these, the ones that the tile attends here: not those on the device.
uint32_t Attender::attended_pages(const Call& call, const Tile& tile, size_t wave_index) const {
  const uint32_t seen = seen_pages(call, tile, wave_index) & ~held_[wave_index].on_device;
  return call.selective() ? seen & chosen_of(tile, plan_.runs[call.next_run + wave_index]) : seen;
}

// Where attend_run begins to read; nullptr when the tile attends nothing of the run.
const uint8_t* Attender::first_section(const Call& call, const Tile& tile, size_t wave_index) const {
  const uint32_t pages = attended_pages(call, tile, wave_index);
  const HeldRun& run = held_[wave_index];
  const auto first = static_cast<uint32_t>(std::countr_zero(pages));
  return pages == 0 ? nullptr : section_of(call, run, run.first_page + first, tile.kv_head);
}

// wanted: bit i stands for page first_page + i of the run. next: what the lane attends afterwards, to be
// prefetched; may be null.
void Attender::attend_run(const Call& call, const Tile& tile, size_t wave_index, uint32_t wanted,
                          const uint8_t* next, const Lane& lane, const AttendState& state) const {
  const CacheConfig& config = context_.config;
  const HeldRun& run = held_[wave_index];
  std::array<SectionRef, kRunPages> sections;
  std::array<uint32_t, kRunPages> page_of;
  uint32_t count = 0;
  for (; wanted != 0; wanted &= wanted - 1, ++count) {
    const uint32_t p = run.first_page + static_cast<uint32_t>(std::countr_zero(wanted));
    const SectionEntry& entry = run.pages[p - run.first_page]->entries[tile.kv_head];
    page_of[count] = p;
    sections[count] = {section_of(call, run, p, tile.kv_head), entry.key_param, entry.value_param};
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
  for (uint32_t i = 0; i < count;) {
    const uint32_t p = page_of[i];
    const uint64_t position = uint64_t{p} * config.page_tokens;
    const uint32_t sinks = call.config.kind_of(p).sink_tokens;
    const bool masked = position < masked_below;
    // Angles lie page by page: sections that are turned back must be neighbours.
    uint32_t stop = i + 1;
    const bool turned = config.key_space == KeySpace::kPreRope;
    while (stop < count && !masked && sinks == 0 && (!turned || page_of[stop] == page_of[stop - 1] + 1))
      ++stop;
    rows.first_token = masked ? lane.begin : nullptr;
    for (uint32_t r = 0; masked && r < tile.rows; ++r) {
      const uint64_t first = first_visible(tile.position + r / config.group(), call.args.window);
      lane.begin[r] = static_cast<int32_t>(std::clamp<int64_t>(
          static_cast<int64_t>(first) - static_cast<int64_t>(position), 0, config.page_tokens));
    }
    rotation.base_cos = base_cos + (p - run.first_page) * half;
    rotation.base_sin = rotation.base_cos + kRunPages * half;
    const FoldedPages pages{call.config.key_side(),
                            call.config.value_side(),
                            static_cast<uint8_t>(sinks),
                            config.shape(),
                            call.config.layout_of(p).section,
                            config.key_space == KeySpace::kPreRope ? &rotation : nullptr,
                            stop < count ? sections[stop].section : next};
    context_.kernels.attend_folded(pages, std::span(sections).subspan(i, stop - i), rows, state,
                                   lane.scratch);
    i = stop;
  }
}

Status Attender::compute_wave(Call& call) {
  const TraceSpan span(context_.trace, "attend", TraceCategory::kCompute, call.layer,
                       held_.front().first_page, call.wave * kRunPages);
  if (context_.residency.device() != nullptr) return compute_with_device(call);
  compute_on_host(call);
  count_places(call);
  return {};
}

void Attender::compute_on_host(Call& call) {
  const uint32_t dim = context_.config.head_dim;
  const uint32_t threads = context_.executor.threads();
  if (context_.config.key_space == KeySpace::kPreRope) wave_angles(call);
  const auto tiles = static_cast<uint32_t>(plan_.tiles.size());
  // With few tiles the runs of the wave are computed side by side and merged afterwards; else a lane takes a
  // tile and merges as it goes. Both merge the same partials in the same order.
  const bool split =
      tiles < 2 * threads && call.wave > 1 && call.wave * plan_.rows <= partial_rows_ && !call.checked();
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
        const uint32_t pages = attended_pages(call, tile, w);
        if (pages != 0) attend_run(call, tile, w, pages, section_after(tile, w), mine, part);
        if (split) break;
        context_.kernels.merge(state_of(tile), part, tile.rows, dim);
        if (call.checked()) attend_rest(call, tile, w, mine);
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
    context_.kernels.rotate(q_ + size_t{tile.row} * dim, tile.rows, dim, diag, q_ + size_t{tile.row} * dim);
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
      if (in_rotated_space(call.config.key_codec)) {
        context_.kernels.rotate(keys, tokens, dim, nullptr, lane.keys);
        const std::vector<float>& inverse = call.config.inverse_balance;
        for (size_t i = 0; !inverse.empty() && i < size_t{tokens} * dim; ++i) {
          lane.keys[i] *= inverse[size_t{tile.kv_head} * dim + i % dim];
        }
      } else {
        std::memcpy(lane.keys, keys, size_t{tokens} * dim * sizeof(float));
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
  if (call.selective()) note_missed(call, tile);
  // m is not needed any more: it takes the log-sum-exp.
  context_.kernels.finish(state, tile.rows, dim, call.args.lse == nullptr ? nullptr : state.m);
  if (in_rotated_space(call.config.value_codec)) {
    context_.kernels.rotate(state.o, tile.rows, dim, nullptr, state.o);
  }
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
      if (call.selective()) note_folded(plan_.tiles[i]);
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
