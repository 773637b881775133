#include "bench/calibration/statistics.h"

#include <algorithm>
#include <cmath>

namespace quire::bench {
namespace {

std::vector<float> as_floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

}  // namespace

StatisticsObserver::StatisticsObserver(const qwen3::ModelConfig& config)
    : config_(config),
      layers_(config.layers, {Sums(config.kv_size()), Sums(config.kv_size()), Sums(config.kv_size())}) {}

void StatisticsObserver::on_qkv(uint32_t layer, std::span<const float> rows) {
  const size_t dim = config_.head_dim;
  const size_t group = config_.query_heads / config_.kv_heads;
  const size_t heads = config_.query_heads + 2 * size_t{config_.kv_heads};
  LayerSums& sums = layers_[layer];
  for (size_t row = 0; row < rows.size() / (heads * dim); ++row) {
    for (size_t head = 0; head < heads; ++head) {
      const auto vector = rows.subspan((row * heads + head) * dim, dim);
      if (head < config_.query_heads) {
        sums.queries.add(head / group * dim, vector);
      } else if (head < config_.query_heads + config_.kv_heads) {
        sums.keys.add((head - config_.query_heads) * dim, vector);
      } else {
        sums.values.add((head - config_.query_heads - config_.kv_heads) * dim, vector);
      }
    }
    sums.queries.rows += group;
    ++sums.keys.rows;
    ++sums.values.rows;
  }
}

void StatisticsObserver::Sums::add(size_t first_channel, std::span<const float> vector) {
  for (size_t i = 0; i < vector.size(); ++i) {
    const auto x = static_cast<double>(vector[i]);
    squares[first_channel + i] += x * x;
    values[first_channel + i] += x;
    peak[first_channel + i] = std::max(peak[first_channel + i], std::abs(x));
  }
}

std::vector<float> StatisticsObserver::Sums::rms() const {
  std::vector<double> out = squares;
  for (double& x : out) x = std::sqrt(x / static_cast<double>(rows));
  return as_floats(out);
}

std::vector<float> StatisticsObserver::Sums::mean() const {
  std::vector<double> out = values;
  for (double& x : out) x /= static_cast<double>(rows);
  return as_floats(out);
}

ChannelStatistics StatisticsObserver::statistics(uint32_t layer) const {
  const LayerSums& sums = layers_[layer];
  return {.query_rms = sums.queries.rms(),
          .key_rms = sums.keys.rms(),
          .key_mean = sums.keys.mean(),
          .key_peak = as_floats(sums.keys.peak),
          .value_rms = sums.values.rms(),
          .value_peak = as_floats(sums.values.peak)};
}

std::vector<float> key_balance(const ChannelStatistics& statistics, uint32_t head_dim, uint32_t rotary_dim) {
  constexpr float kLimit = 1024;  // quire.h: within [2^-10, 2^10]
  const auto square = [](float x) { return double{x} * double{x}; };
  std::vector<float> balance(statistics.key_rms.size());
  for (size_t i = 0; i < balance.size(); ++i) {
    const size_t channel = i % head_dim;
    const size_t half = rotary_dim / 2;
    size_t partner = i;
    if (channel < half) partner = i + half;
    if (channel >= half && channel < rotary_dim) partner = i - half;
    const double queries = square(statistics.query_rms[i]) + square(statistics.query_rms[partner]);
    const double keys = square(statistics.key_rms[i]) + square(statistics.key_rms[partner]);
    // A channel of zeros on either side leaves nothing to balance.
    if (queries > 0 && keys > 0) {
      balance[i] = std::clamp(static_cast<float>(std::sqrt(std::sqrt(queries / keys))), 1 / kLimit, kLimit);
    } else {
      balance[i] = 1;
    }
  }
  return balance;
}

}  // namespace quire::bench
