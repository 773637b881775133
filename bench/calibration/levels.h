// A layer's own levels for nuq codecs: what its groups look like once a page has scaled them, and the k-means
// of that, weighted by how much attention reads of an error.
//
// After KVQuant (Hooper et al. 2024, arXiv 2401.18079), which weights by squared gradients. Here an error of
// a key counts with the mean square of the queries in its channel, times its group's scale squared, since
// that is its share in the error of a score; one of a value with its token's scale squared. Thread safety:
// one pass at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/attention.h"
#include "bench/qwen3/cache.h"
#include "bench/qwen3/config.h"

namespace quire::bench {

// Weighted values in level units, -127..127, by cells of a quarter.
class LevelHistogram {
 public:
  static constexpr size_t kCells = 1016;

  LevelHistogram() : mass_(kCells), moment_(kCells) {}
  void add(float value, double weight);  // beyond the ends: the last cell there
  // k-means: 2^bits levels, strictly ascending within -127..127; bits from 1 to 6. Empty when nothing was
  // added.
  std::vector<int8_t> levels(uint32_t bits) const;

 private:
  std::vector<double> mass_;
  std::vector<double> moment_;
};

class LevelsObserver : public qwen3::Observer {
 public:
  // Pages of `page_tokens`; keys as a cache of `space` holds them. Passes must begin at a page's first token.
  LevelsObserver(const qwen3::ModelConfig& config, quire_key_space space, uint32_t page_tokens);

  void on_hidden(uint32_t, std::span<const float>) override {}
  void on_qkv(uint32_t layer, std::span<const float> rows) override;
  void on_rotated_qkv(uint32_t layer, std::span<const float> rows) override;
  void on_attention(uint32_t, std::span<const float>) override {}

  // Of every nuq codec that has seen values in this layer.
  std::vector<qwen3::CodecLevels> key_levels(uint32_t layer) const;
  std::vector<qwen3::CodecLevels> value_levels(uint32_t layer) const;

 private:
  // Of one side: with every member, and without the outlier of each lane (the s codecs).
  struct Side {
    LevelHistogram all;
    LevelHistogram without_outliers;
  };
  struct LayerSides {
    Side keys;
    Side values;
  };

  void add_pages(uint32_t layer, std::span<const float> rows);
  static std::vector<qwen3::CodecLevels> levels_of(const Side& side);

  qwen3::ModelConfig config_;
  quire_key_space space_;
  uint32_t page_tokens_;
  std::vector<LayerSides> layers_;
};

}  // namespace quire::bench
