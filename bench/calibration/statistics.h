// What the channels of queries, keys and values look like over a text, and the balance that follows.
// Thread safety: one pass at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/calibration/calibration.h"
#include "bench/qwen3/attention.h"
#include "bench/qwen3/config.h"

namespace quire::bench {

// Watches passes and adds up, in f64.
class StatisticsObserver : public qwen3::Observer {
 public:
  explicit StatisticsObserver(const qwen3::ModelConfig& config);

  void on_hidden(uint32_t, std::span<const float>) override {}
  void on_qkv(uint32_t layer, std::span<const float> rows) override;
  void on_attention(uint32_t, std::span<const float>) override {}

  // Of one layer, over all tokens seen so far: at least one.
  ChannelStatistics statistics(uint32_t layer) const;

 private:
  // Of each channel, [kv_heads][head_dim].
  struct Sums {
    std::vector<double> squares;
    std::vector<double> values;
    std::vector<double> peak;
    uint64_t rows = 0;  // that each channel has seen

    explicit Sums(size_t channels) : squares(channels), values(channels), peak(channels) {}
    // One head's vector.
    void add(size_t first_channel, std::span<const float> vector);
    std::vector<float> rms() const;
    std::vector<float> mean() const;
  };
  struct LayerSums {
    Sums queries;
    Sums keys;
    Sums values;
  };

  qwen3::ModelConfig config_;
  std::vector<LayerSums> layers_;
};

// s = sqrt(rms of queries / rms of keys) per kv head and rotary pair, of the pair's two channels together so
// that s commutes with RoPE; within the limits of quire.h. rotary_dim <= head_dim; channels beyond it stand
// alone.
std::vector<float> key_balance(const ChannelStatistics& statistics, uint32_t head_dim, uint32_t rotary_dim);

}  // namespace quire::bench
