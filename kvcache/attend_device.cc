// Attention of a wave's pages that lie on the device: what goes up, who attends what, and, when somebody
// waits for a batch of waves, the states that come down. Rows of all kv heads that see the same pages are
// one launch, so they stand together up there.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kvcache/attend_call.h"
#include "kvcache/page_device.h"

namespace quire {
namespace {

constexpr uint32_t kFewMerges = 64;  // of tiles: less work than waking threads is

}  // namespace

EntryTiles entry_at(const std::vector<Tile>& tiles, size_t first) {
  EntryTiles entry{first, 0};
  const auto same = [&](const Tile& tile) { return tile.entry == tiles[first].entry && tile.kv_head == 0; };
  while (first + entry.per_head < tiles.size() && same(tiles[first + entry.per_head])) ++entry.per_head;
  return entry;
}

uint32_t own_row(const AttendPlan& plan, const EntryTiles& entry, size_t i, uint32_t kv_heads) {
  const uint32_t base = plan.tiles[entry.first].row;
  if (entry.per_head == 1) return base;
  return plan.rows + base + kv_heads * (plan.tiles[entry.first + i].row - base);
}

int32_t tokens_below(std::span<const uint32_t> pages, uint64_t position, uint32_t page_tokens) {
  const uint64_t page = position / page_tokens;
  const auto at = std::ranges::lower_bound(pages, page);
  const auto whole = static_cast<uint64_t>(at - pages.begin()) * page_tokens;
  const bool inside = at != pages.end() && *at == page;
  return static_cast<int32_t>(whole + (inside ? position % page_tokens : 0));
}

Status Attender::load_queries(Call& call) {
  if (call.queries_on_device) return {};
  PageDevice& device = *context_.residency.device();
  const DeviceAttendSpace space = device.attend_space();
  const uint32_t heads = context_.config.kv_heads;
  const size_t dim = context_.config.head_dim;
  std::memcpy(space.q, q_, plan_.rows * dim * sizeof(float));
  uint32_t rows = plan_.rows;
  for (size_t first = 0; first < plan_.tiles.size();) {
    const EntryTiles entry = entry_at(plan_.tiles, first);
    for (size_t i = 0; i < entry.per_head && entry.per_head > 1; ++i) {
      const uint32_t row = own_row(plan_, entry, i, heads);
      for (uint32_t head = 0; head < heads; ++head) {
        const Tile& tile = plan_.tiles[first + head * entry.per_head + i];
        std::memcpy(space.q + (row + size_t{head} * tile.rows) * dim, q_ + tile.row * dim,
                    tile.rows * dim * sizeof(float));
      }
      rows = 2 * plan_.rows;
    }
    first += entry.per_head * heads;
  }
  call.queries_on_device = true;
  return device.load_queries(rows);
}

// The wave's pages of one entry that lie on the device: device_pages_, and their sections [kv_heads][pages].
void Attender::list_device_pages(const Call& call, uint32_t entry, SectionRef* sections) {
  device_pages_.clear();
  const auto each_run = [&](auto&& visit) {
    for (size_t w = 0; w < call.wave; ++w) {
      if (plan_.runs[call.next_run + w].entry == entry) visit(held_[w]);
    }
  };
  size_t pages = 0;
  each_run([&](const HeldRun& run) { pages += static_cast<size_t>(std::popcount(run.on_device)); });
  each_run([&](const HeldRun& run) {
    for (uint32_t bits = run.on_device; bits != 0; bits &= bits - 1, ++sections) {
      const auto i = static_cast<uint32_t>(std::countr_zero(bits));
      const uint32_t page = run.first_page + i;
      const PageLayout& layout = call.config.layout_of(page);
      const uint8_t* section = run.bytes[i] + layout.header_bytes;
      const SectionEntry* params = run.pages[i]->entries;
      device_pages_.push_back(page);
      for (uint32_t head = 0; head < context_.config.kv_heads; ++head, section += layout.section.bytes) {
        sections[head * pages] = {section, params[head].key_param, params[head].value_param};
      }
    }
  });
}

// Where the angles of device_pages_ begin, whose sections stand from `refs` on.
size_t Attender::first_angle(uint32_t refs) const {
  return size_t{refs / context_.config.kv_heads} * (context_.config.head_dim / 2);
}

// The angles of device_pages_.
void Attender::turn_device_pages(const Call& call, const Tile& tile, uint32_t refs) {
  const DeviceAttendSpace space = context_.residency.device()->attend_space();
  const Rope& rope = call.rope(tile);
  const size_t half = rope.rotary_dim / 2;
  float* cos = space.base_cos + first_angle(refs);
  float* sin = space.base_sin + first_angle(refs);
  const auto chunks = static_cast<uint32_t>((device_pages_.size() + kRunPages - 1) / kRunPages);
  parallel_for(context_.executor, chunks, [&](uint32_t chunk) {
    const size_t end = std::min(device_pages_.size(), size_t{chunk + 1} * kRunPages);
    for (size_t i = size_t{chunk} * kRunPages; i < end; ++i) {
      const auto position = static_cast<int64_t>(device_pages_[i]) * context_.config.page_tokens;
      rope_angles(rope, position, cos + i * half, sin + i * half);
    }
  });
}

// For rows that see device_pages_ from the `begin`-th on.
void Attender::turn_device_rows(const Call& call, const Tile& tile, uint32_t refs, size_t begin,
                                DeviceRows* rows) const {
  if (context_.config.key_space != KeySpace::kPreRope) return;
  rows->offsets = &call.entry(tile).sequence->offsets;
  rows->first_angle = first_angle(refs) + begin * rows->offsets->half;
}

// Adds what all tiles of an entry attend of device_pages_ alike: those before the first tile's end. Returns
// how many. refs: where the sections of these pages stand.
size_t Attender::share_device_rows(const Call& call, size_t first, uint32_t refs) {
  const EntryTiles entry = entry_at(plan_.tiles, first);
  if (entry.per_head == 1 || call.args.window != 0) return 0;
  const Tile& tile = plan_.tiles[first];
  const auto shared =
      static_cast<size_t>(std::ranges::lower_bound(device_pages_, tile.fold_end) - device_pages_.begin());
  if (shared == 0) return 0;
  const Tile& last = plan_.tiles[first + entry.per_head - 1];
  const uint32_t rows = last.row + last.rows - tile.row;
  device_rows_.push_back({.first_ref = refs,
                          .stride = static_cast<uint32_t>(device_pages_.size()),
                          .section_count = static_cast<uint32_t>(shared),
                          .heads = context_.config.kv_heads,
                          .rows = rows,
                          .query_row = tile.row,
                          .state_row = tile.row,
                          .input_row = batch_.input_rows + tile.row,
                          .onto = batch_.has_state[tile.row],
                          .sinks = device_pages_.front() == 0,
                          .windowed = false,
                          .counted = false,
                          .offsets = nullptr,
                          .first_angle = 0});
  turn_device_rows(call, tile, refs, 0, &device_rows_.back());
  if (batch_.leave_state(tile.row)) {
    for (size_t i = 0; i < entry.per_head; ++i) {
      batch_.shared_tiles.push_back({first + i, entry.per_head, plan_.tiles[first + i].row, rows, false});
    }
  }
  return shared;
}

// Adds what the tiles of an entry attend of device_pages_, each for itself, from the `shared`-th page on.
void Attender::cut_device_rows(const Call& call, size_t first, size_t shared, uint32_t refs) {
  const CacheConfig& config = context_.config;
  const EntryTiles entry = entry_at(plan_.tiles, first);
  const std::span<const uint32_t> pages(device_pages_);
  int32_t* first_token = context_.residency.device()->attend_space().first_token + batch_.input_rows;
  for (size_t i = 0; i < entry.per_head; ++i) {
    const Tile& tile = plan_.tiles[first + i];
    const auto at = [&](uint32_t page) {
      return static_cast<size_t>(std::ranges::lower_bound(pages, page) - pages.begin());
    };
    const size_t begin = std::max(shared, at(tile.fold_begin));
    const size_t end = at(tile.fold_end);
    if (begin >= end) continue;
    const std::span<const uint32_t> seen = pages.subspan(begin, end - begin);
    const uint32_t row = own_row(plan_, entry, i, config.kv_heads);
    const bool windowed = window_begins_in(call, tile, seen.front());
    for (uint32_t r = 0; windowed && r < tile.rows; ++r) {
      const uint64_t lowest = first_visible(tile.position + r / config.group(), call.args.window);
      first_token[row + r] = tokens_below(seen, lowest, config.page_tokens);
    }
    device_rows_.push_back({.first_ref = refs + static_cast<uint32_t>(begin),
                            .stride = static_cast<uint32_t>(pages.size()),
                            .section_count = static_cast<uint32_t>(end - begin),
                            .heads = config.kv_heads,
                            .rows = tile.rows,
                            .query_row = row,
                            .state_row = row,
                            .input_row = batch_.input_rows + row,
                            .onto = batch_.has_state[row],
                            .sinks = seen.front() == 0,
                            .windowed = windowed,
                            .counted = false,
                            .offsets = nullptr,
                            .first_angle = 0});
    turn_device_rows(call, tile, refs, begin, &device_rows_.back());
    if (batch_.leave_state(row)) {
      batch_.own_tiles.push_back({first + i, entry.per_head, row, tile.rows, false});
    }
  }
}

// Whether tokens of the page are outside the window of some row of the tile.
bool Attender::window_begins_in(const Call& call, const Tile& tile, uint32_t page) const {
  const uint64_t masked_below = first_visible(tile.position + tile.tokens - 1, call.args.window);
  return uint64_t{page} * context_.config.page_tokens < masked_below;
}

Status Attender::begin_on_device(Call& call) {
  if (call.selective()) return begin_chosen_on_device(call);
  const DeviceAttendSpace space = context_.residency.device()->attend_space();
  const uint32_t heads = context_.config.kv_heads;
  const bool pre_rope = context_.config.key_space == KeySpace::kPreRope;
  uint32_t refs = batch_.refs;
  for (size_t first = 0; first < plan_.tiles.size(); first += entry_at(plan_.tiles, first).per_head * heads) {
    list_device_pages(call, plan_.tiles[first].entry, space.sections + refs);
    if (pre_rope) turn_device_pages(call, plan_.tiles[first], refs);
    cut_device_rows(call, first, share_device_rows(call, first, refs), refs);
    refs += static_cast<uint32_t>(device_pages_.size()) * heads;
  }
  return give_to_device(call, refs);
}

// What has been listed, whose sections end at `refs`.
Status Attender::give_to_device(Call& call, uint32_t refs) {
  if (device_rows_.empty()) return {};
  PageDevice& device = *context_.residency.device();
  const bool windowed = std::ranges::any_of(device_rows_, &DeviceRows::windowed);
  const bool counted = std::ranges::any_of(device_rows_, &DeviceRows::counted);
  const bool twice =
      std::ranges::any_of(device_rows_, [&](const DeviceRows& rows) { return rows.state_row >= plan_.rows; });
  const uint32_t rows = twice ? 2 * plan_.rows : plan_.rows;
  Status status = load_queries(call);
  if (status.ok())
    status = device.begin_wave({batch_.refs, refs - batch_.refs, batch_.input_rows, rows, windowed, counted});
  if (status.ok()) status = device.attend(call.layer, device_rows_);
  device_rows_.clear();
  batch_.refs = refs;
  batch_.input_rows += rows;
  batch_.rows = std::max(batch_.rows, rows);
  return status;
}

// Whether any wave fits beside those that the device has.
bool Attender::has_room_on_device() const {
  const DeviceAttendSpace space = context_.residency.device()->attend_space();
  return batch_.refs + kWavePages * context_.config.kv_heads <= space.refs &&
         batch_.input_rows + 2 * plan_.rows <= space.input_rows;
}

void Attender::merge_from_device(std::span<const DeviceTile> tiles) {
  const uint32_t dim = context_.config.head_dim;
  const uint32_t heads = context_.config.kv_heads;
  const AttendState parts = context_.residency.device()->attend_space().state;
  const auto merge = [&](uint32_t i) {
    const DeviceTile& at = tiles[i / heads];
    const Tile& tile = plan_.tiles[at.first + size_t{i % heads} * at.stride];
    const size_t row = at.row + size_t{i % heads} * at.head_rows;
    if (at.left_out) return add_rest(tile, parts.m + row, parts.l + row);
    context_.kernels.merge(state_of(tile), {parts.o + row * dim, parts.m + row, parts.l + row}, tile.rows,
                           dim);
  };
  const auto units = static_cast<uint32_t>(tiles.size()) * heads;
  if (units > kFewMerges) return parallel_for(context_.executor, units, merge);
  for (uint32_t i = 0; i < units; ++i) merge(i);
}

// The states of all that was waited for; the device's space is free then.
void Attender::merge_batch() {
  // One after the other: a tile may stand in both.
  merge_from_device(batch_.shared_tiles);
  merge_from_device(batch_.own_tiles);
  batch_.empty();
}

// Waits for all waves that the device was given.
Status Attender::end_on_device() {
  if (batch_.waves == 0) return {};
  const Nanoseconds idle = context_.clock.now();
  if (Status status = context_.residency.device()->end_waves(batch_.rows); !status.ok()) return status;
  const Nanoseconds end = context_.clock.now();
  merge_batch();
  note_device_speed(idle, end);
  batch_.waves = 0;
  return {};
}

// Of a call that has failed. Its pages are let go: nothing may be reading them then.
void Attender::abandon_device() {
  if (batch_.waves > 0) (void)context_.residency.device()->end_waves(0);
  batch_.waves = 0;
}

}  // namespace quire
