// Attention of a wave's pages that lie on the device: what goes up, who attends what, and the partials that
// come down. Rows of all kv heads that see the same pages are one launch, so they stand together up there.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kvcache/attend_call.h"
#include "kvcache/page_device.h"

namespace quire {
namespace {

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

// Where the rows of tile i of an entry stand on the device: [tile][kv_head][row], where the plan has
// [kv_head][tile][row].
uint32_t device_row(const std::vector<Tile>& tiles, const EntryTiles& entry, size_t i, uint32_t kv_heads) {
  const uint32_t base = tiles[entry.first].row;
  return base + kv_heads * (tiles[entry.first + i].row - base);
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
  for (size_t first = 0; first < plan_.tiles.size();) {
    const EntryTiles entry = entry_at(plan_.tiles, first);
    for (size_t i = 0; i < entry.per_head; ++i) {
      const uint32_t row = device_row(plan_.tiles, entry, i, heads);
      for (uint32_t head = 0; head < heads; ++head) {
        const Tile& tile = plan_.tiles[first + head * entry.per_head + i];
        std::memcpy(space.q + (row + size_t{head} * tile.rows) * dim, q_ + tile.row * dim,
                    tile.rows * dim * sizeof(float));
      }
    }
    first += entry.per_head * heads;
  }
  call.queries_on_device = true;
  return device.load_queries(plan_.rows);
}

// The wave's pages of one entry that lie on the device: device_pages_, and their sections [kv_heads][pages].
void Attender::list_device_pages(const Call& call, uint32_t entry, SectionRef* sections) {
  device_pages_.clear();
  const auto each = [&](auto&& visit) {
    for (size_t w = 0; w < call.wave; ++w) {
      if (plan_.runs[call.next_run + w].entry != entry) continue;
      for (uint32_t bits = held_[w].on_device; bits != 0; bits &= bits - 1) {
        visit(held_[w], static_cast<uint32_t>(std::countr_zero(bits)));
      }
    }
  };
  each([&](const HeldRun& run, uint32_t i) { device_pages_.push_back(run.first_page + i); });
  for (uint32_t head = 0; head < context_.config.kv_heads; ++head) {
    each([&](const HeldRun& run, uint32_t i) {
      const SectionEntry& params = run.pages[i]->entries[head];
      *sections++ = {section_of(call, run, run.first_page + i, head), params.key_param, params.value_param};
    });
  }
}

// Adds what the tiles of an entry attend of device_pages_.
void Attender::cut_device_rows(const Call& call, size_t first, int32_t* first_token) {
  const CacheConfig& config = context_.config;
  const EntryTiles entry = entry_at(plan_.tiles, first);
  const std::span<const uint32_t> pages(device_pages_);
  for (size_t i = 0; i < entry.per_head; ++i) {
    const Tile& tile = plan_.tiles[first + i];
    const auto begin = static_cast<size_t>(std::ranges::lower_bound(pages, tile.fold_begin) - pages.begin());
    const auto end = static_cast<size_t>(std::ranges::lower_bound(pages, tile.fold_end) - pages.begin());
    if (begin == end) continue;
    const std::span<const uint32_t> seen = pages.subspan(begin, end - begin);
    const uint32_t row = device_row(plan_.tiles, entry, i, config.kv_heads);
    const uint64_t masked_below = first_visible(tile.position + tile.tokens - 1, call.args.window);
    const bool windowed = uint64_t{seen.front()} * config.page_tokens < masked_below;
    for (uint32_t r = 0; windowed && r < tile.rows; ++r) {
      const uint64_t lowest = first_visible(tile.position + r / config.group(), call.args.window);
      first_token[row + r] = tokens_below(seen, lowest, config.page_tokens);
    }
    device_rows_.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end - begin),
                            seen.front() == 0, windowed, row, tile.rows});
    device_tiles_.push_back({first + i, entry.per_head});
  }
}

Status Attender::begin_on_device(Call& call) {
  device_rows_.clear();
  device_tiles_.clear();
  device_calls_.clear();
  PageDevice& device = *context_.residency.device();
  const DeviceAttendSpace space = device.attend_space();
  const uint32_t heads = context_.config.kv_heads;
  uint32_t refs = 0;
  for (size_t first = 0; first < plan_.tiles.size(); first += entry_at(plan_.tiles, first).per_head * heads) {
    list_device_pages(call, plan_.tiles[first].entry, space.sections + refs);
    const size_t tiles = device_rows_.size();
    cut_device_rows(call, first, space.first_token);
    const auto pages = static_cast<uint32_t>(device_pages_.size());
    if (device_rows_.size() > tiles) device_calls_.push_back({refs, pages, tiles, device_rows_.size()});
    refs += pages * heads;
  }
  if (device_calls_.empty()) return {};
  const bool windowed = std::ranges::any_of(device_rows_, &DeviceRows::windowed);
  Status status = load_queries(call);
  if (status.ok()) status = device.begin_wave(refs, windowed ? plan_.rows : 0);
  for (const DeviceCall& each : device_calls_) {
    if (!status.ok()) break;
    const std::span<const DeviceRows> rows(device_rows_);
    status = device.attend(
        {call.layer, each.first_ref, each.pages, rows.subspan(each.first_tile, each.end - each.first_tile)});
  }
  // The pages are let go on failure: nothing may be reading them then.
  if (!status.ok()) (void)device.end_wave(0);
  return status;
}

Status Attender::end_on_device() {
  if (device_calls_.empty()) return {};
  PageDevice& device = *context_.residency.device();
  if (Status status = device.end_wave(plan_.rows); !status.ok()) return status;
  const uint32_t dim = context_.config.head_dim;
  const AttendState parts = device.attend_space().state;
  const uint32_t heads = context_.config.kv_heads;
  parallel_for(context_.executor, static_cast<uint32_t>(device_tiles_.size()) * heads, [&](uint32_t i) {
    const DeviceTile& at = device_tiles_[i / heads];
    const DeviceRows& rows = device_rows_[i / heads];
    const Tile& tile = plan_.tiles[at.first + size_t{i % heads} * at.stride];
    const size_t row = rows.row + size_t{i % heads} * rows.rows;
    context_.kernels.merge(state_of(tile), {parts.o + row * dim, parts.m + row, parts.l + row}, tile.rows,
                           dim);
  });
  return {};
}

}  // namespace quire
