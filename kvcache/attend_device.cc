// Attention of a wave's pages that lie on the device: what goes up, who attends what, and, when somebody
// waits for a batch of waves, the partials that come down. Rows of all kv heads that see the same pages are
// one launch, so they stand together up there.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kvcache/attend_call.h"
#include "kvcache/page_device.h"

namespace quire {
namespace {

constexpr uint32_t kFewMerges = 64;  // of tiles: less work than waking threads is

// The tiles of one entry: [kv_heads][per_head] of the plan's, from `first` on.
struct EntryTiles {
  size_t first;
  size_t per_head;
};

EntryTiles entry_at(const std::vector<Tile>& tiles, size_t first) {
  EntryTiles entry{first, 0};
  const auto same = [&](const Tile& tile) { return tile.entry == tiles[first].entry && tile.kv_head == 0; };
  while (first + entry.per_head < tiles.size() && same(tiles[first + entry.per_head])) ++entry.per_head;
  return entry;
}

// Rows stand on the device twice: first as in the plan, [kv_head][tile][row] of each entry, for launches of
// all of its tiles; behind that as [tile][kv_head][row], for launches of one. Of an entry with one tile both
// are the same.
uint32_t own_row(const AttendPlan& plan, const EntryTiles& entry, size_t i, uint32_t kv_heads) {
  const uint32_t base = plan.tiles[entry.first].row;
  if (entry.per_head == 1) return base;
  return plan.rows + base + kv_heads * (plan.tiles[entry.first + i].row - base);
}

// How many tokens of the pages lie below `position`; pages: ascending, not all of them need be there.
int32_t tokens_below(std::span<const uint32_t> pages, uint64_t position, uint32_t page_tokens) {
  const uint64_t page = position / page_tokens;
  const auto at = std::ranges::lower_bound(pages, page);
  const auto whole = static_cast<uint64_t>(at - pages.begin()) * page_tokens;
  const bool inside = at != pages.end() && *at == page;
  return static_cast<int32_t>(whole + (inside ? position % page_tokens : 0));
}

}  // namespace

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

// Adds what all tiles of an entry attend of device_pages_ alike: those before the first tile's end. Returns
// how many.
size_t Attender::share_device_rows(const Call& call, size_t first) {
  const EntryTiles entry = entry_at(plan_.tiles, first);
  if (entry.per_head == 1 || call.args.window != 0) return 0;
  const Tile& tile = plan_.tiles[first];
  const auto shared =
      static_cast<size_t>(std::ranges::lower_bound(device_pages_, tile.fold_end) - device_pages_.begin());
  if (shared == 0) return 0;
  const Tile& last = plan_.tiles[first + entry.per_head - 1];
  const uint32_t rows = last.row + last.rows - tile.row;
  device_rows_.push_back(
      {0, static_cast<uint32_t>(shared), device_pages_.front() == 0, false, tile.row, rows});
  for (size_t i = 0; i < entry.per_head; ++i) {
    device_shared_tiles_.push_back({first + i, entry.per_head, plan_.tiles[first + i].row, rows});
  }
  return shared;
}

// Adds what the tiles of an entry attend of device_pages_, each for itself, from the `shared`-th page on.
void Attender::cut_device_rows(const Call& call, size_t first, size_t shared, int32_t* first_token) {
  const CacheConfig& config = context_.config;
  const EntryTiles entry = entry_at(plan_.tiles, first);
  const std::span<const uint32_t> pages(device_pages_);
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
    const uint64_t masked_below = first_visible(tile.position + tile.tokens - 1, call.args.window);
    const bool windowed = uint64_t{seen.front()} * config.page_tokens < masked_below;
    for (uint32_t r = 0; windowed && r < tile.rows; ++r) {
      const uint64_t lowest = first_visible(tile.position + r / config.group(), call.args.window);
      first_token[row + r] = tokens_below(seen, lowest, config.page_tokens);
    }
    device_rows_.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end - begin),
                            seen.front() == 0, windowed, row, tile.rows});
    device_tiles_.push_back({first + i, entry.per_head, row, tile.rows});
  }
}

Status Attender::begin_on_device(Call& call) {
  device_rows_.clear();
  device_shared_tiles_.clear();
  device_tiles_.clear();
  device_calls_.clear();
  PageDevice& device = *context_.residency.device();
  const DeviceAttendSpace space = device.attend_space();
  const uint32_t heads = context_.config.kv_heads;
  uint32_t refs = batch_.refs;
  for (size_t first = 0; first < plan_.tiles.size(); first += entry_at(plan_.tiles, first).per_head * heads) {
    list_device_pages(call, plan_.tiles[first].entry, space.sections + refs);
    const size_t tiles = device_rows_.size();
    cut_device_rows(call, first, share_device_rows(call, first), space.first_token + batch_.rows);
    const auto pages = static_cast<uint32_t>(device_pages_.size());
    if (device_rows_.size() > tiles) device_calls_.push_back({refs, pages, tiles, device_rows_.size()});
    refs += pages * heads;
  }
  if (device_calls_.empty()) return {};
  const bool windowed = std::ranges::any_of(device_rows_, &DeviceRows::windowed);
  const bool own =
      std::ranges::any_of(device_rows_, [&](const DeviceRows& rows) { return rows.row >= plan_.rows; });
  const uint32_t rows = own ? 2 * plan_.rows : plan_.rows;
  Status status = load_queries(call);
  if (status.ok())
    status = device.begin_wave({batch_.refs, refs - batch_.refs, batch_.rows, windowed ? rows : 0});
  for (const DeviceCall& each : device_calls_) {
    if (!status.ok()) break;
    const auto of_call =
        std::span<const DeviceRows>(device_rows_).subspan(each.first_tile, each.end - each.first_tile);
    status = device.attend({call.layer, each.first_ref, each.pages, batch_.rows, of_call});
  }
  // One after the other: a tile may stand in both.
  for (const std::vector<DeviceTile>* tiles : {&device_shared_tiles_, &device_tiles_}) {
    for (DeviceTile tile : *tiles) {
      tile.row += batch_.rows;
      batch_.tiles.push_back(tile);
    }
    batch_.groups.push_back(batch_.tiles.size());
  }
  batch_.refs = refs;
  batch_.rows += rows;
  return status;
}

// Whether any wave fits beside those that the device has.
bool Attender::has_room_on_device() const {
  const DeviceAttendSpace space = context_.residency.device()->attend_space();
  return batch_.refs + kWavePages * context_.config.kv_heads <= space.refs &&
         batch_.rows + 2 * plan_.rows <= space.rows;
}

void Attender::merge_from_device(std::span<const DeviceTile> tiles) {
  const uint32_t dim = context_.config.head_dim;
  const uint32_t heads = context_.config.kv_heads;
  const AttendState parts = context_.residency.device()->attend_space().state;
  const auto merge = [&](uint32_t i) {
    const DeviceTile& at = tiles[i / heads];
    const Tile& tile = plan_.tiles[at.first + size_t{i % heads} * at.stride];
    const size_t row = at.row + size_t{i % heads} * at.head_rows;
    context_.kernels.merge(state_of(tile), {parts.o + row * dim, parts.m + row, parts.l + row}, tile.rows,
                           dim);
  };
  const auto units = static_cast<uint32_t>(tiles.size()) * heads;
  if (units > kFewMerges) return parallel_for(context_.executor, units, merge);
  for (uint32_t i = 0; i < units; ++i) merge(i);
}

// Waits for all waves that the device was given.
Status Attender::end_on_device() {
  if (batch_.waves == 0) return {};
  const Nanoseconds idle = context_.clock.now();
  if (Status status = context_.residency.device()->end_waves(batch_.rows); !status.ok()) return status;
  const Nanoseconds end = context_.clock.now();
  size_t first = 0;
  for (const size_t group : batch_.groups) {
    merge_from_device(std::span(batch_.tiles).subspan(first, group - first));
    first = group;
  }
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
