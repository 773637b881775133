// Which codec each layer's keys and values get under a budget of bits: the most sensitive get the most.
//
// How much a codec on one side of one layer moves the model is measured, everything else unquantized; a sum
// of such divergences predicts that of a mix, and the mix with the smallest sum within the budget is found
// exactly. A last run says what the sum is worth. After KVTuner (Li et al. 2025), which searches whole pairs
// of widths. Thread safety: main's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/cache_setup.h"
#include "bench/calibration/calibration.h"
#include "bench/quality/windows.h"

namespace quire::bench {

// What one layer may choose from: page bits and predicted divergence of a pair of codecs.
struct Option {
  CodecChoice codecs;
  double bits;
  double damage;
};

// One option per layer with the smallest sum of damages among those whose mean bits are at most `budget`:
// exact but for bits being rounded up to thousandths. Empty when even the cheapest are above it.
// [layers][options].
std::vector<Option> choose_options(const std::vector<std::vector<Option>>& layers, double budget);

// How sensitivities are found.
enum class Sensitivity {
  kDirect,  // each layer, side and candidate by itself
  kRatio,   // each layer and side with one candidate; what the others do in all layers at once gives the
            // ratios
};

class WidthSearch {
 public:
  // context: tokens that a cache holds when its bits are counted. All must outlive the search; before measure
  // the scorer must have run its reference.
  WidthSearch(WindowScorer& scorer, const CacheSetup& setup, std::vector<quire_codec> candidates,
              uint64_t context, std::function<void(const std::string&)> on_run);

  // Runs of the scorer that measure() will make.
  uint64_t runs(Sensitivity sensitivity) const;
  void measure(Sensitivity sensitivity);

  // Throws Error when no mix of the candidates is within the budget: before anything is measured, too.
  void check_budget(float budget) const;
  Mix choose(float budget, double* predicted) const;

  // Divergence of one candidate on one side of one layer, as measured or predicted.
  double damage(uint32_t layer, bool values, size_t candidate) const;

 private:
  struct Side {
    std::vector<double> damage;  // of each candidate
  };

  double run(const std::string& label, uint32_t first_layer, uint32_t layers, bool values, quire_codec codec);
  void measure_direct();
  void measure_ratios();
  Side& side(uint32_t layer, bool values) { return sides_[2 * layer + (values ? 1 : 0)]; }
  std::vector<Option> options_of(uint32_t layer) const;

  WindowScorer& scorer_;
  const CacheSetup& setup_;
  std::vector<quire_codec> candidates_;
  std::function<void(const std::string&)> on_run_;
  qwen3::CacheGeometry geometry_;
  std::vector<Side> sides_;           // [layers][keys, values]
  std::vector<double> bits_of_pair_;  // [candidates of keys][candidates of values]
};

}  // namespace quire::bench
