// Attention over folded sections: for each section, for each block of rows, scores, softmax and
// accumulation. Thread safety: touches only its arguments.
#pragma once

#include "quant/cpu/steps-inl.h"
#include "quant/cpu/unfolded-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Sets the tokens that each row sees; false when every row sees all of them.
inline bool set_visible(Tile& tile, const int32_t* first_token, int32_t least, uint32_t tokens) {
  bool masked = false;
  for (RowBlock& block : tile.row_blocks()) {
    for (uint32_t r = 0; r < kLanes; ++r) {
      const bool real = r < block.rows;
      const int32_t from = real && first_token != nullptr ? first_token[block.first + r] : 0;
      block.begin[r] = from > least ? from : least;
      block.end[r] = real ? static_cast<int32_t>(tokens) : 0;
      masked |= real && block.begin[r] > 0;
    }
  }
  return masked;
}

// Sinks as f32, to tile.sink_keys and tile.sink_values.
inline void load_sinks(const FoldedPages& pages, const uint8_t* section, Tile& tile) {
  const uint16_t* keys = reinterpret_cast<const uint16_t*>(section + pages.layout.sink_keys);
  const uint16_t* values = reinterpret_cast<const uint16_t*>(section + pages.layout.sink_values);
  for (uint32_t i = 0; i < pages.sink_tokens * pages.shape.dim; i += kLanes) {
    store(load_bf16(keys + i), tile.sink_keys + i);
    store(load_bf16(values + i), tile.sink_values + i);
  }
}

// One section for all rows. `index` counts the sections of the call.
inline void attend_section(const FoldedPages& pages, const CodecInfo& key, const SectionRef& ref,
                           size_t index, const int32_t* first_token, KeyPath path, const StepTable& steps,
                           Tile& tile) {
  if (pages.rotation != nullptr) {
    const uint32_t half = pages.rotation->rotary_dim / 2;
    tile.base = {pages.rotation->base_cos + index * half, pages.rotation->base_sin + index * half, half};
    path == KeyPath::kWords ? turn_levels(key, tile) : rope_keys(pages, key, tile);
  }
  if (pages.sink_tokens > 0) {
    load_sinks(pages, ref.section, tile);
    if (pages.rotation != nullptr) rope_sinks(pages, key, tile, pages.sink_tokens);
    set_visible(tile, first_token, 0, pages.sink_tokens);
    attend_rows(tile, {tile.sink_keys, tile.sink_values, pages.sink_tokens});
  }
  const bool masked = (first_token != nullptr || pages.sink_tokens > 0) &&
                      set_visible(tile, first_token, pages.sink_tokens, pages.shape.tokens);
  for (RowBlock& block : tile.row_blocks()) {
    const BlockSteps& step = steps.of(block);
    step.fold(tile, block);
    step.score(tile, block);
    if (step.score_outliers != nullptr) step.score_outliers(tile, block);
    (masked ? step.weigh_masked : step.weigh)(tile, block);
    if (step.weigh_outliers != nullptr)
      (masked ? step.weigh_outliers_masked : step.weigh_outliers)(tile, block);
  }
}

// Where the section after sections[i] lies that is to be prefetched; itself where there is none.
inline const uint8_t* section_ahead(const FoldedPages& pages, std::span<const SectionRef> sections,
                                    size_t i) {
  if (i + 1 < sections.size()) return sections[i + 1].section;
  return pages.next_call != nullptr ? pages.next_call : sections[i].section;
}

inline KeyPath key_path(const FoldedPages& pages, const CodecInfo& key) {
  if (pages.rotation == nullptr) return KeyPath::kFolded;
  return turns_levels(pages, key) ? KeyPath::kWords : KeyPath::kFloats;
}

inline void attend_folded(const FoldedPages& pages, std::span<const SectionRef> sections,
                          const QueryTile& query, const AttendState& state, uint8_t* scratch) {
  const CodecInfo& key = *find_codec(pages.key_codec.id);
  const CodecInfo& value = *find_codec(pages.value_codec.id);
  const KeyPath path = key_path(pages, key);
  const StepTable steps = CommonShape::is(pages.shape) ? choose_table<CommonShape>(key, value, path)
                                                       : choose_table<AnyShape>(key, value, path);
  Tile tile = make_tile(query, pages.shape, state, scratch);
  set_constant_terms(pages, key, value, &tile.section);
  if (path == KeyPath::kWords) set_turns(pages, key, tile);
  for (RowBlock& block : tile.row_blocks()) {
    if (const BlockStep step = steps.of(block).query) step(tile, block);
  }
  for (size_t i = 0; i < sections.size(); ++i) {
    load_section(pages, key, value, sections[i], section_ahead(pages, sections, i), &tile.section);
    attend_section(pages, key, sections[i], i, i == 0 ? query.first_token : nullptr, path, steps, tile);
  }
  store_state(tile, state);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
