// What a cache is opened with, checked, and what follows from it: page kinds and layouts per layer.
//
// Invariant: a CacheConfig that check_config accepted is consistent everywhere; nothing below checks it
// again. Thread safety: immutable after check_config.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/placement.h"
#include "kvcache/status.h"
#include "quant/page.h"

namespace quire {

inline constexpr uint32_t kMaxGroup = 16;  // query heads per kv head
// Pages of one run: attention over a run gives one partial, and partials merge in position order. Runs are
// aligned to multiples of this in page indices, so that results never depend on where pages lie or how work
// was divided.
inline constexpr uint32_t kRunPages = 16;

struct LayerConfig {
  CodecId key_codec;
  CodecId value_codec;
  std::vector<float> key_balance;    // [kv_heads][head_dim], or empty
  std::vector<int8_t> key_levels;    // of a non-uniform codec: [2^bits], or empty for the default ones
  std::vector<int8_t> value_levels;  // likewise
  // Derived by check_config.
  std::vector<float> inverse_balance;  // 1 / key_balance
  uint64_t params_hash = 0;            // of what stands above; 0 where all is empty
  PageKind kind{};                     // of pages 1, 2, ...
  PageKind first_kind{};               // of page 0, which carries the sinks
  PageLayout layout{};
  PageLayout first_layout{};

  SideCodec key_side() const { return {key_codec, key_levels.empty() ? nullptr : key_levels.data()}; }
  SideCodec value_side() const { return {value_codec, value_levels.empty() ? nullptr : value_levels.data()}; }
  const PageKind& kind_of(uint32_t page) const { return page == 0 ? first_kind : kind; }
  const PageLayout& layout_of(uint32_t page) const { return page == 0 ? first_layout : layout; }
};

struct CacheConfig {
  uint32_t layers = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t page_tokens = 64;
  uint32_t sink_tokens = 4;
  uint32_t recent_pages = 0;
  KeySpace key_space = KeySpace::kPostRope;
  uint32_t max_step_tokens = 512;
  bool digests = false;            // kept of every page, for selection; post_rope only
  AttendSpeeds speeds{};           // as configured; for caches with a device
  std::vector<LayerConfig> layer;  // [layers]

  uint32_t group() const { return query_heads / kv_heads; }
  // Of pages under a rope: keys that are turned when they are read serve any.
  uint32_t page_epoch(uint32_t rope_epoch) const { return key_space == KeySpace::kPreRope ? 0 : rope_epoch; }
  SectionShape shape() const { return {page_tokens, head_dim}; }
  // A frame holds one page unfolded: keys [kv_heads][page_tokens][head_dim], then values, f32.
  uint32_t frame_side_floats() const { return kv_heads * page_tokens * head_dim; }
  uint32_t frame_bytes() const { return 2 * frame_side_floats() * static_cast<uint32_t>(sizeof(float)); }
  uint32_t largest_page_bytes() const;

  // Most pages that a step of one sequence touches, and that it fills.
  uint32_t step_pages() const { return (max_step_tokens + page_tokens - 2) / page_tokens + 1; }
  uint32_t step_full_pages() const { return (max_step_tokens + page_tokens - 1) / page_tokens; }
};

// Checks every field and fills in the derived ones.
Status check_config(CacheConfig* config);

}  // namespace quire
