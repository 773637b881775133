#include "bench/calibration/levels.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace quire::bench {
namespace {

constexpr float kEnd = 127;  // a group's range ends at -127 and 127
constexpr float kCellsPerUnit = LevelHistogram::kCells / (2 * kEnd);
constexpr uint32_t kRounds = 100;

struct NuqCodec {
  quire_codec codec;
  uint32_t bits;
  bool outliers;
};
constexpr std::array<NuqCodec, 6> kNuqCodecs{{{QUIRE_CODEC_NUQ4, 4, false},
                                              {QUIRE_CODEC_NUQ3, 3, false},
                                              {QUIRE_CODEC_NUQ2, 2, false},
                                              {QUIRE_CODEC_NUQ4S, 4, true},
                                              {QUIRE_CODEC_NUQ3S, 3, true},
                                              {QUIRE_CODEC_NUQ2S, 2, true}}};

// Members of groups that share a scale, [groups][lanes], and what an error in each group weighs.
struct Section {
  size_t groups;
  size_t lanes;
  std::vector<float> values;
  std::vector<double> weights;  // [groups]

  std::span<const float> group(size_t g) const { return std::span(values).subspan(g * lanes, lanes); }
};

// FORMATS.md: of each lane the member that is farthest from its group's mean, in deviations.
std::vector<bool> outliers_of(const Section& section) {
  std::vector<double> farthest(section.lanes, -1);
  std::vector<size_t> at(section.lanes);
  for (size_t g = 0; g < section.groups; ++g) {
    const auto group = section.group(g);
    double mean = 0;
    for (const float x : group) mean += double{x} / static_cast<double>(group.size());
    double square = 0;
    for (const float x : group) square += (double{x} - mean) * (double{x} - mean);
    const double deviation = std::sqrt(square / static_cast<double>(group.size()));
    for (size_t lane = 0; lane < section.lanes; ++lane) {
      const double distance = deviation > 0 ? std::abs(double{group[lane]} - mean) / deviation : 0;
      if (distance <= farthest[lane]) continue;
      farthest[lane] = distance;
      at[lane] = g;
    }
  }
  std::vector<bool> out(section.values.size());
  for (size_t lane = 0; lane < section.lanes; ++lane) out[at[lane] * section.lanes + lane] = true;
  return out;
}

void add_section(const Section& section, const std::vector<bool>& apart, LevelHistogram* histogram) {
  for (size_t g = 0; g < section.groups; ++g) {
    const auto group = section.group(g);
    const auto counts = [&](size_t lane) { return apart.empty() || !apart[g * section.lanes + lane]; };
    float low = INFINITY;
    float high = -INFINITY;
    for (size_t lane = 0; lane < section.lanes; ++lane) {
      if (!counts(lane)) continue;
      low = std::min(low, group[lane]);
      high = std::max(high, group[lane]);
    }
    if (!(high > low)) continue;
    const float middle = (low + high) / 2;
    const float unit = (high - low) / (2 * kEnd);
    const double weight = section.weights[g] * double{unit} * double{unit};
    for (size_t lane = 0; lane < section.lanes; ++lane) {
      if (counts(lane)) histogram->add((group[lane] - middle) / unit, weight);
    }
  }
}

}  // namespace

void LevelHistogram::add(float value, double weight) {
  const auto cell = static_cast<int64_t>(std::floor((value + kEnd) * kCellsPerUnit));
  const auto at = static_cast<size_t>(std::clamp<int64_t>(cell, 0, kCells - 1));
  mass_[at] += weight;
  moment_[at] += weight * double{value};
}

std::vector<int8_t> LevelHistogram::levels(uint32_t bits) const {
  double total = 0;
  for (const double mass : mass_) total += mass;
  if (!(total > 0)) return {};
  const size_t count = size_t{1} << bits;
  // From the quantiles on.
  std::vector<double> centers;
  double below = 0;
  for (size_t cell = 0; cell < kCells && centers.size() < count; ++cell) {
    below += mass_[cell];
    while (centers.size() < count && below >= total * (static_cast<double>(centers.size()) + 0.5) /
                                                  static_cast<double>(count) * (1 - 1e-12)) {
      centers.push_back((static_cast<double>(cell) + 0.5) / double{kCellsPerUnit} - double{kEnd});
    }
  }
  for (uint32_t round = 0; round < kRounds; ++round) {
    std::vector<double> mass(count);
    std::vector<double> moment(count);
    size_t nearest = 0;
    for (size_t cell = 0; cell < kCells; ++cell) {
      const double x = (static_cast<double>(cell) + 0.5) / double{kCellsPerUnit} - double{kEnd};
      while (nearest + 1 < count && x > (centers[nearest] + centers[nearest + 1]) / 2) ++nearest;
      mass[nearest] += mass_[cell];
      moment[nearest] += moment_[cell];
    }
    for (size_t i = 0; i < count; ++i) {
      if (mass[i] > 0) centers[i] = moment[i] / mass[i];
    }
  }
  std::vector<int8_t> out;
  for (size_t i = 0; i < count; ++i) {
    // Room for those above and below: levels are apart from each other also where values are not.
    const int least = out.empty() ? -127 : out.back() + 1;
    const int most = 127 - static_cast<int>(count - 1 - i);
    out.push_back(static_cast<int8_t>(std::clamp(static_cast<int>(std::lround(centers[i])), least, most)));
  }
  return out;
}

LevelsObserver::LevelsObserver(const qwen3::ModelConfig& config, quire_key_space space, uint32_t page_tokens)
    : config_(config), space_(space), page_tokens_(page_tokens), layers_(config.layers) {}

void LevelsObserver::on_qkv(uint32_t layer, std::span<const float> rows) {
  if (space_ == QUIRE_PRE_ROPE) add_pages(layer, rows);
}

void LevelsObserver::on_rotated_qkv(uint32_t layer, std::span<const float> rows) {
  if (space_ == QUIRE_POST_ROPE) add_pages(layer, rows);
}

// rows [n][(H + 2 H_kv) * D]; what is left over after whole pages is left out.
void LevelsObserver::add_pages(uint32_t layer, std::span<const float> rows) {
  const size_t dim = config_.head_dim;
  const size_t group = config_.query_heads / config_.kv_heads;
  const size_t stride = (config_.query_heads + size_t{2} * config_.kv_heads) * dim;
  const size_t tokens = rows.size() / stride;
  const size_t page = page_tokens_;
  for (size_t head = 0; head < config_.kv_heads; ++head) {
    const float* queries = rows.data() + head * group * dim;
    const float* keys = rows.data() + (config_.query_heads + head) * dim;
    const float* values = keys + config_.kv_heads * dim;
    std::vector<double> query_squares(dim);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < group * dim; ++i) {
        const double q = double{queries[t * stride + i]};
        query_squares[i % dim] += q * q;
      }
    }
    for (size_t first = 0; first + page <= tokens; first += page) {
      Section key_section{dim, page, std::vector<float>(dim * page), query_squares};
      Section value_section{page, dim, std::vector<float>(dim * page), std::vector<double>(page, 1.0)};
      for (size_t t = 0; t < page; ++t) {
        for (size_t c = 0; c < dim; ++c) {
          key_section.values[c * page + t] = keys[(first + t) * stride + c];
          value_section.values[t * dim + c] = values[(first + t) * stride + c];
        }
      }
      LayerSides& sides = layers_[layer];
      add_section(key_section, {}, &sides.keys.all);
      add_section(key_section, outliers_of(key_section), &sides.keys.without_outliers);
      add_section(value_section, {}, &sides.values.all);
      add_section(value_section, outliers_of(value_section), &sides.values.without_outliers);
    }
  }
}

std::vector<qwen3::CodecLevels> LevelsObserver::levels_of(const Side& side) {
  std::vector<qwen3::CodecLevels> out;
  for (const NuqCodec& nuq : kNuqCodecs) {
    std::vector<int8_t> levels = (nuq.outliers ? side.without_outliers : side.all).levels(nuq.bits);
    if (!levels.empty()) out.push_back({nuq.codec, std::move(levels)});
  }
  return out;
}

std::vector<qwen3::CodecLevels> LevelsObserver::key_levels(uint32_t layer) const {
  return levels_of(layers_[layer].keys);
}

std::vector<qwen3::CodecLevels> LevelsObserver::value_levels(uint32_t layer) const {
  return levels_of(layers_[layer].values);
}

}  // namespace quire::bench
