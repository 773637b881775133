// What a text does to a model's keys and values, per layer and kv head, and what codecs do to its attention.
// Thread safety: main's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/cache_setup.h"
#include "bench/quality/windows.h"

namespace quire::bench {

// One side (keys after RoPE, or values) of one kv head, over the tokens of a window.
struct SideFacts {
  // [head_dim]
  std::vector<float> low;
  std::vector<float> high;
  std::vector<float> rms;
  double spread;    // largest rms of a channel / the median one
  double peak;      // largest magnitude in units of its channel's rms
  double outliers;  // share of values beyond kOutlierRms times their channel's rms
  std::vector<double>
      output_errors;  // relative L2 of this head's attention, this side alone folded; per codec
};
inline constexpr double kOutlierRms = 4;  // a normal distribution has 6e-5 beyond it

struct HeadFacts {
  uint32_t layer;
  uint32_t head;
  SideFacts keys;
  SideFacts values;
};

// Queries, keys and values of one layer as attention gets them: [n][(H + 2 H_kv) * D].
struct LayerRows {
  std::vector<float> rows;
};

// Reads a window with bf16 pages and keeps every layer's rows.
std::vector<LayerRows> capture_rows(const CacheSetup& setup, qwen3::Decoder& decoder, Window window);

// Facts of one layer's heads with the given codecs. Throws Error.
std::vector<HeadFacts> inspect_layer(const CacheSetup& setup, const qwen3::Decoder& decoder, uint32_t layer,
                                     const LayerRows& rows, std::span<const quire_codec> codecs);

}  // namespace quire::bench
