#include "bench/qwen3/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace quire::qwen3 {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

std::vector<double> plain_frequencies(double theta, uint32_t head_dim) {
  std::vector<double> out(head_dim / 2);
  for (uint32_t i = 0; i < out.size(); ++i) out[i] = std::pow(theta, -2.0 * i / head_dim);
  return out;
}

// Dynamic NTK: the base grows once the sequence is longer than the model's own limit.
double dynamic_theta(const RopeConfig& config, uint32_t head_dim, uint64_t max_positions, uint64_t length) {
  if (length <= max_positions) return config.theta;
  const double ratio = static_cast<double>(length) / static_cast<double>(max_positions);
  const double growth = config.factor * ratio - (config.factor - 1);
  return config.theta * std::pow(growth, head_dim / (head_dim - 2.0));
}

// Yarn: the index of the pair that turns `rotations` times within the original length.
double yarn_index(const RopeConfig& config, uint32_t head_dim, double rotations) {
  const auto length = static_cast<double>(config.original_positions);
  return head_dim * std::log(length / (rotations * kTwoPi)) / (2 * std::log(config.theta));
}

void scale_yarn(const RopeConfig& config, uint32_t head_dim, std::span<double> inv_freq) {
  double low = yarn_index(config, head_dim, config.beta_fast);
  double high = yarn_index(config, head_dim, config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double slow = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] *= slow / config.factor + (1 - slow);
  }
}

double yarn_attention_factor(const RopeConfig& config) {
  if (config.attention_factor) return *config.attention_factor;
  const auto mscale = [&](double m) {
    return config.factor <= 1 ? 1.0 : 0.1 * m * std::log(config.factor) + 1.0;
  };
  if (config.mscale && config.mscale_all_dim) return mscale(*config.mscale) / mscale(*config.mscale_all_dim);
  return mscale(1);
}

// Llama 3: long wavelengths are stretched by factor, short ones stay, those between are blended.
void scale_llama3(const RopeConfig& config, std::span<double> inv_freq) {
  const auto length = static_cast<double>(config.original_positions);
  for (double& f : inv_freq) {
    const double rotations = length * f / kTwoPi;
    const double keep = std::clamp(
        (rotations - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor), 0.0, 1.0);
    f = (1 - keep) * f / config.factor + keep * f;
  }
}

}  // namespace

Rope make_rope(const RopeConfig& config, uint32_t head_dim, uint64_t max_positions, uint64_t length) {
  Rope rope;
  const double theta = config.type == RopeType::kDynamic
                           ? dynamic_theta(config, head_dim, max_positions, length)
                           : config.theta;
  rope.inv_freq = plain_frequencies(theta, head_dim);
  switch (config.type) {
    case RopeType::kDefault:
    case RopeType::kDynamic:
      break;
    case RopeType::kLinear:
      for (double& f : rope.inv_freq) f /= config.factor;
      break;
    case RopeType::kYarn:
      scale_yarn(config, head_dim, rope.inv_freq);
      rope.attention_factor = static_cast<float>(yarn_attention_factor(config));
      break;
    case RopeType::kLlama3:
      scale_llama3(config, rope.inv_freq);
      break;
  }
  return rope;
}

RopeTable make_rope_table(const Rope& rope, uint64_t first_position, uint32_t count) {
  RopeTable table;
  table.half = static_cast<uint32_t>(rope.inv_freq.size());
  table.cosines.reserve(size_t{count} * table.half);
  table.sines.reserve(size_t{count} * table.half);
  for (uint32_t row = 0; row < count; ++row) {
    for (const double f : rope.inv_freq) {
      const double angle = static_cast<double>(first_position + row) * f;
      table.cosines.push_back(static_cast<float>(std::cos(angle)) * rope.attention_factor);
      table.sines.push_back(static_cast<float>(std::sin(angle)) * rope.attention_factor);
    }
  }
  return table;
}

void rotate(std::span<float> head, const RopeTable& table, uint32_t row) {
  const size_t at = size_t{row} * table.half;
  rotate(head, std::span(table.cosines).subspan(at, table.half),
         std::span(table.sines).subspan(at, table.half));
}

void rotate(std::span<float> head, std::span<const float> cosines, std::span<const float> sines) {
  float* low = head.data();
  float* high = head.data() + cosines.size();
  for (size_t i = 0; i < cosines.size(); ++i) {
    const float a = low[i];
    const float b = high[i];
    low[i] = a * cosines[i] - b * sines[i];
    high[i] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace quire::qwen3
