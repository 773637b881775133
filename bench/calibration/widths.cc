#include "bench/calibration/widths.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bench/quality/page_bits.h"
#include "bench/qwen3/error.h"

namespace quire::bench {
namespace {

constexpr double kUnitsPerBit = 1000;
constexpr CodecPair kReference{QUIRE_CODEC_BF16, QUIRE_CODEC_BF16};

size_t units(const Option& option) {
  return static_cast<size_t>(std::ceil(option.bits * kUnitsPerBit - 1e-6));
}

// Leaves out what is neither cheaper nor better than another.
std::vector<Option> pareto(std::vector<Option> options) {
  std::sort(options.begin(), options.end(), [](const Option& a, const Option& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.damage < b.damage;
  });
  std::vector<Option> kept;
  for (const Option& option : options) {
    if (kept.empty() || option.damage < kept.back().damage) kept.push_back(option);
  }
  return kept;
}

}  // namespace

// Dynamic programming over units of bits: best[u] is the smallest damage of the layers so far in u units.
std::vector<Option> choose_options(const std::vector<std::vector<Option>>& layers, double budget) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  const auto capacity =
      static_cast<size_t>(budget * kUnitsPerBit * static_cast<double>(layers.size()) + 1e-6);
  std::vector<double> best(capacity + 1, 0.0);
  std::vector<std::vector<uint16_t>> taken;  // [layer][units]
  std::vector<std::vector<Option>> kept;
  for (const std::vector<Option>& all : layers) {
    const std::vector<Option>& options = kept.emplace_back(pareto(all));
    std::vector<double> next(capacity + 1, kNone);
    std::vector<uint16_t>& choice = taken.emplace_back(capacity + 1);
    for (size_t i = 0; i < options.size(); ++i) {
      for (size_t u = units(options[i]); u <= capacity; ++u) {
        const double damage = best[u - units(options[i])] + options[i].damage;
        if (damage >= next[u]) continue;
        next[u] = damage;
        choice[u] = static_cast<uint16_t>(i);
      }
    }
    best = std::move(next);
  }
  if (best[capacity] == kNone) return {};
  std::vector<Option> chosen(layers.size());
  size_t left = capacity;
  for (size_t layer = layers.size(); layer-- > 0;) {
    chosen[layer] = kept[layer][taken[layer][left]];
    left -= units(chosen[layer]);
  }
  return chosen;
}

WidthSearch::WidthSearch(WindowScorer& scorer, const CacheSetup& setup, std::vector<quire_codec> candidates,
                         uint64_t context, std::function<void(const std::string&)> on_run)
    : scorer_(scorer),
      setup_(setup),
      candidates_(std::move(candidates)),
      on_run_(std::move(on_run)),
      geometry_(setup.geometry(kReference)),
      sides_(size_t{2} * geometry_.layers) {
  for (const quire_codec key : candidates_) {
    for (const quire_codec value : candidates_) {
      bits_of_pair_.push_back(page_bits(setup_, {key, value}, context));
    }
  }
}

uint64_t WidthSearch::runs(Sensitivity sensitivity) const {
  if (sensitivity == Sensitivity::kDirect) return sides_.size() * candidates_.size();
  return sides_.size() + 2 * candidates_.size();
}

void WidthSearch::measure(Sensitivity sensitivity) {
  sensitivity == Sensitivity::kDirect ? measure_direct() : measure_ratios();
}

double WidthSearch::damage(uint32_t layer, bool values, size_t candidate) const {
  return sides_[2 * layer + (values ? 1 : 0)].damage[candidate];
}

// Divergence with `codec` on one side of `layers` layers from `first_layer` on, all else unquantized.
double WidthSearch::run(const std::string& label, uint32_t first_layer, uint32_t layers, bool values,
                        quire_codec codec) {
  on_run_(label + (values ? " values " : " keys ") + qwen3::codec_name(codec));
  qwen3::CacheGeometry geometry = geometry_;
  for (uint32_t layer = first_layer; layer < first_layer + layers; ++layer) {
    (values ? geometry.params[layer].value_codec : geometry.params[layer].key_codec) = codec;
  }
  return scorer_.run([&] { return setup_.open(geometry, kReference); }).kld_mean;
}

void WidthSearch::measure_direct() {
  for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
    for (const bool values : {false, true}) {
      for (const quire_codec codec : candidates_) {
        side(layer, values).damage.push_back(run("layer " + std::to_string(layer), layer, 1, values, codec));
      }
    }
  }
}

void WidthSearch::measure_ratios() {
  for (const bool values : {false, true}) {
    std::vector<double> everywhere;
    for (const quire_codec codec : candidates_) {
      everywhere.push_back(run("all layers", 0, geometry_.layers, values, codec));
    }
    // The probe: the candidate in the middle, well above what arithmetic adds and not yet beyond all bounds.
    std::vector<size_t> order(everywhere.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return everywhere[a] < everywhere[b]; });
    const size_t probe = order[order.size() / 2];
    for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
      const double alone = run("layer " + std::to_string(layer), layer, 1, values, candidates_[probe]);
      for (const double all : everywhere) {
        side(layer, values).damage.push_back(alone * all / everywhere[probe]);
      }
    }
  }
}

std::vector<Option> WidthSearch::options_of(uint32_t layer) const {
  std::vector<Option> options;
  const size_t n = candidates_.size();
  for (size_t k = 0; k < n; ++k) {
    for (size_t v = 0; v < n; ++v) {
      options.push_back({{candidates_[k], candidates_[v]},
                         bits_of_pair_[k * n + v],
                         damage(layer, false, k) + damage(layer, true, v)});
    }
  }
  return options;
}

void WidthSearch::check_budget(float budget) const {
  const double least = *std::min_element(bits_of_pair_.begin(), bits_of_pair_.end());
  if (std::ceil(least * kUnitsPerBit - 1e-6) <= double{budget} * kUnitsPerBit + 1e-6) return;
  throw qwen3::Error("no mix of the candidates has " + budget_name(budget) +
                     " bits; the cheapest pair of them has " + std::to_string(least));
}

Mix WidthSearch::choose(float budget, double* predicted) const {
  check_budget(budget);
  std::vector<std::vector<Option>> layers;
  for (uint32_t layer = 0; layer < geometry_.layers; ++layer) layers.push_back(options_of(layer));
  Mix mix{budget, {}};
  *predicted = 0;
  for (const Option& option : choose_options(layers, double{budget})) {
    mix.layers.push_back(option.codecs);
    *predicted += option.damage;
  }
  return mix;
}

}  // namespace quire::bench
