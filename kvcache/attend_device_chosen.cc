// Attention of a wave's pages that lie on the device where every tile and kv head has chosen its own: each
// head of a tile has a list of sections, and, to tell what is missed, one of those that it left out. A launch
// takes all heads of a tile, whose lists may differ in length; behind a sliding window, which begins at
// another place of each list, it takes one.
#include <algorithm>
#include <bit>

#include "kvcache/attend_call.h"
#include "kvcache/page_device.h"

namespace quire {

// The wave's pages on the device that the tile attends, or those that it left out: device_pages_, and where
// `sections` is not null, their sections.
void Attender::list_chosen(const Call& call, const Tile& tile, bool left_out, SectionRef* sections) {
  device_pages_.clear();
  for (size_t w = 0; w < call.wave; ++w) {
    const HeldRun& run = held_[w];
    const uint32_t seen = seen_pages(call, tile, w) & run.on_device;
    if (seen == 0) continue;
    const uint32_t chosen = chosen_of(tile, plan_.runs[call.next_run + w]);
    for (uint32_t bits = seen & (left_out ? ~chosen : chosen); bits != 0; bits &= bits - 1) {
      const auto i = static_cast<uint32_t>(std::countr_zero(bits));
      const uint32_t page = run.first_page + i;
      device_pages_.push_back(page);
      if (sections == nullptr) continue;
      const SectionEntry& params = run.pages[i]->entries[tile.kv_head];
      *sections++ = {section_of(call, run, page, tile.kv_head), params.key_param, params.value_param};
    }
  }
}

// Adds the entry's i-th tile of each kv head. refs: where sections may be listed, and then the end of these.
Status Attender::add_chosen(Call& call, const EntryTiles& entry, size_t i, bool left_out, uint32_t* refs) {
  const CacheConfig& config = context_.config;
  PageDevice& device = *context_.residency.device();
  const DeviceAttendSpace space = device.attend_space();
  const auto tile_of = [&](uint32_t head) -> const Tile& {
    return plan_.tiles[entry.first + head * entry.per_head + i];
  };
  DeviceRows all{};
  all.heads = config.kv_heads;
  all.rows = tile_of(0).rows;
  all.counted = true;
  for (uint32_t head = 0; head < config.kv_heads; ++head) {
    list_chosen(call, tile_of(head), left_out, nullptr);
    if (device_pages_.empty()) continue;
    all.section_count = std::max(all.section_count, static_cast<uint32_t>(device_pages_.size()));
    all.sinks = device_pages_.front() == 0;  // every head attends page 0
    all.windowed = all.windowed || window_begins_in(call, tile_of(head), device_pages_.front());
  }
  if (all.section_count == 0) return {};
  if (*refs + all.section_count * config.kv_heads > space.refs) {
    // Lists of many tiles may be more than there is room for: what there is goes first.
    if (Status status = give_to_device(call, *refs); !status.ok()) return status;
    if (Status status = device.end_waves(batch_.rows); !status.ok()) return status;
    merge_batch();
    *refs = 0;
  }
  all.first_ref = *refs;
  all.stride = all.section_count;
  all.query_row = own_row(plan_, entry, i, config.kv_heads);
  // Of an entry with several tiles the rows stand in the second half, of others in the first: the other half
  // has room for a second state.
  const bool first_half = all.query_row < plan_.rows;
  const uint32_t other_half = first_half ? all.query_row + plan_.rows : all.query_row - plan_.rows;
  all.state_row = left_out ? other_half : all.query_row;
  all.input_row = batch_.input_rows + all.state_row;
  all.onto = batch_.has_state[all.state_row];
  for (uint32_t head = 0; head < config.kv_heads; ++head) {
    list_chosen(call, tile_of(head), left_out, space.sections + all.first_ref + head * all.stride);
    const auto count = static_cast<uint32_t>(device_pages_.size());
    space.head_sections[all.input_row + head] = count;
    if (all.windowed) add_windowed_head(call, tile_of(head), all, count);
  }
  if (!all.windowed) device_rows_.push_back(all);
  if (batch_.leave_state(all.state_row)) {
    batch_.own_tiles.push_back({entry.first + i, entry.per_head, all.state_row, all.rows, left_out});
  }
  *refs += all.section_count * config.kv_heads;
  return {};
}

// Adds what the tile's kv head attends of device_pages_. all: of the tile's rows of all heads.
void Attender::add_windowed_head(const Call& call, const Tile& tile, const DeviceRows& all, uint32_t count) {
  DeviceRows rows = all;
  rows.heads = 1;
  rows.counted = false;
  rows.first_ref += tile.kv_head * all.stride;
  rows.section_count = count;
  rows.query_row += tile.kv_head * all.rows;
  rows.state_row += tile.kv_head * all.rows;
  rows.input_row += tile.kv_head * all.rows;
  int32_t* first_token = context_.residency.device()->attend_space().first_token + rows.input_row;
  for (uint32_t r = 0; r < tile.rows; ++r) {
    const uint64_t lowest = first_visible(tile.position + r / context_.config.group(), call.args.window);
    first_token[r] = tokens_below(device_pages_, lowest, context_.config.page_tokens);
  }
  device_rows_.push_back(rows);
}

Status Attender::begin_chosen_on_device(Call& call) {
  uint32_t refs = batch_.refs;
  for (size_t first = 0; first < plan_.tiles.size();) {
    const EntryTiles entry = entry_at(plan_.tiles, first);
    for (size_t i = 0; i < entry.per_head; ++i) {
      for (const bool left_out : {false, true}) {
        if (left_out && !call.checked()) continue;
        if (Status status = add_chosen(call, entry, i, left_out, &refs); !status.ok()) return status;
      }
    }
    first += entry.per_head * context_.config.kv_heads;
  }
  return give_to_device(call, refs);
}

}  // namespace quire
