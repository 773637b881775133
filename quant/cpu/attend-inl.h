// Attention over folded sections: for each section, for each block of rows, scores, softmax and
// accumulation. Thread safety: touches only its arguments.
#pragma once

#include "quant/cpu/steps-inl.h"
#include "quant/cpu/unfolded-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Sinks as f32, to tile.sink_keys and tile.sink_values.
inline void load_sinks(const FoldedPages& pages, const uint8_t* section, Tile& tile) {
  const uint16_t* keys = reinterpret_cast<const uint16_t*>(section + pages.layout.sink_keys);
  const uint16_t* values = reinterpret_cast<const uint16_t*>(section + pages.layout.sink_values);
  for (uint32_t i = 0; i < pages.sink_tokens * pages.shape.dim; i += kLanes) {
    store(load_bf16(keys + i), tile.sink_keys + i);
    store(load_bf16(values + i), tile.sink_values + i);
  }
}

// What rotates the keys of the `index`-th section of the call; keys in f32 are rotated at once.
inline void turn_keys(const FoldedPages& pages, const CodecInfo& key, size_t index, KeyPath path,
                      Tile& tile) {
  const uint32_t half = pages.rotation->rotary_dim / 2;
  tile.base = {pages.rotation->base_cos + index * half, pages.rotation->base_sin + index * half, half};
  path == KeyPath::kWords ? set_pairs(key, tile) : rope_keys(pages, key, tile);
}

inline void attend_sinks(const FoldedPages& pages, const CodecInfo& key, const uint8_t* section,
                         const int32_t* first_token, Tile& tile) {
  load_sinks(pages, section, tile);
  if (pages.rotation != nullptr) rope_sinks(pages, key, tile, pages.sink_tokens);
  set_visible(tile, first_token, 0, pages.sink_tokens);
  attend_rows(tile, {tile.sink_keys, tile.sink_values, pages.sink_tokens});
}

// Points at the section's codes and loads its terms.
inline void load_section(const FoldedPages& pages, const SectionRef& ref, const uint8_t* ahead,
                         const StepTable& steps, Tile& tile) {
  const SectionLayout& layout = pages.layout;
  const SectionShape shape = pages.shape;
  Section* const section = &tile.section;
  point_at_codes(layout, ref, ahead, section);
  steps.load_keys(shape, ref.section + layout.key_meta, ref.key_param, section);
  steps.load_values(shape, ref.section + layout.value_meta, ref.value_param, section);
  if (steps.unpack_keys != nullptr) {
    steps.unpack_keys(shape.dim / 4, shape.tokens, &section->key, tile.key_levels);
  }
  if (steps.unpack_values != nullptr) {
    steps.unpack_values(shape.tokens / 4, shape.dim, &section->value, tile.value_levels);
  }
}

// One section for all rows. `index` counts the sections of the call.
inline void attend_section(const FoldedPages& pages, const CodecInfo& key, const SectionRef& ref,
                           size_t index, const int32_t* first_token, KeyPath path, const StepTable& steps,
                           Tile& tile) {
  if constexpr (kServesAll) {
    if (pages.rotation != nullptr) turn_keys(pages, key, index, path, tile);
    if (pages.sink_tokens > 0) attend_sinks(pages, key, ref.section, first_token, tile);
  }
  const bool masked = (first_token != nullptr || pages.sink_tokens > 0) &&
                      set_visible(tile, first_token, pages.sink_tokens, pages.shape.tokens);
  for (RowBlock& block : tile.row_blocks()) {
    const BlockSteps& step = steps.of(block);
    step.fold(tile, block);
    (block.first == 0 ? step.score_first : step.score)(tile, block);
    if (step.score_outliers != nullptr) step.score_outliers(tile, block);
    (masked ? step.weigh_masked : step.weigh)(tile, block);
    if (step.weigh_outliers != nullptr)
      (masked ? step.weigh_outliers_masked : step.weigh_outliers)(tile, block);
  }
}

inline KeyPath key_path(const FoldedPages& pages, const CodecInfo& key) {
  if (pages.rotation == nullptr) return KeyPath::kFolded;
  return turns_levels(pages, key) ? KeyPath::kWords : KeyPath::kFloats;
}

inline StepTable choose_steps_of(SectionShape shape, const CodecInfo& key, const CodecInfo& value,
                                 KeyPath path, bool unpacked) {
  if constexpr (kServesAll) {
    if (!CommonShape::is(shape)) return choose_table<AnyShape>(key, value, path, unpacked);
  }
  return choose_table<CommonShape>(key, value, path, unpacked);
}

inline void attend_folded(const FoldedPages& pages, std::span<const SectionRef> sections,
                          const QueryTile& query, const AttendState& state, uint8_t* scratch) {
  const CodecInfo& key = *find_codec(pages.key_codec.id);
  const CodecInfo& value = *find_codec(pages.value_codec.id);
  const KeyPath path = key_path(pages, key);
  const StepTable steps = choose_steps_of(pages.shape, key, value, path, unpacks(pages.shape, query.rows));
  Tile tile = make_tile(query, pages.shape, state, scratch);
  set_constant_terms(pages, key, value, &tile.section);
  if (path == KeyPath::kWords) set_turns(pages, key, tile);
  for (RowBlock& block : tile.row_blocks()) {
    if (const BlockStep step = steps.of(block).query) step(tile, block);
  }
  for (size_t i = 0; i < sections.size(); ++i) {
    walk_ahead(pages.layout, sections, i);
    load_section(pages, sections[i], section_ahead(pages, sections, i), steps, tile);
    attend_section(pages, key, sections[i], i, i == 0 ? query.first_token : nullptr, path, steps, tile);
  }
  store_state(tile, state);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
