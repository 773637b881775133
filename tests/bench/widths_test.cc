// The search for widths: exact against trying everything, and a mix of the tiny model against its promise.
#include "bench/calibration/widths.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "bench/calibration/statistics.h"
#include "bench/qwen3/json_file.h"
#include "tests/bench/test_files.h"

namespace quire::bench {
namespace {

using Layers = std::vector<std::vector<Option>>;

double mean_bits(const std::vector<Option>& chosen) {
  double bits = 0;
  for (const Option& option : chosen) bits += option.bits;
  return bits / static_cast<double>(chosen.size());
}

double damage(const std::vector<Option>& chosen) {
  double sum = 0;
  for (const Option& option : chosen) sum += option.damage;
  return sum;
}

// The smallest sum of damages by trying everything; infinity when nothing fits.
double best_of_all(const Layers& layers, double budget, size_t layer = 0, double bits = 0, double sum = 0) {
  if (layer == layers.size()) {
    const double limit = budget * static_cast<double>(layers.size()) + 1e-9;
    return bits <= limit ? sum : std::numeric_limits<double>::infinity();
  }
  double best = std::numeric_limits<double>::infinity();
  for (const Option& option : layers[layer]) {
    best = std::min(best, best_of_all(layers, budget, layer + 1, bits + option.bits, sum + option.damage));
  }
  return best;
}

TEST(ChooseOptions, IsExact) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> unit(0, 1);
  constexpr int kCases = 200;
  for (int i = 0; i < kCases; ++i) {
    Layers layers(5);
    for (auto& options : layers) {
      for (int o = 0; o < 5; ++o) {
        options.push_back({{}, std::round(1000 * (2 + 3 * unit(random))) / 1000, unit(random)});
      }
    }
    const double budget = std::round(10 * (2 + 2 * unit(random))) / 10;
    const std::vector<Option> chosen = choose_options(layers, budget);
    const double best = best_of_all(layers, budget);
    ASSERT_EQ(chosen.empty(), std::isinf(best));
    if (chosen.empty()) continue;
    EXPECT_LE(mean_bits(chosen), budget + 1e-9);
    EXPECT_NEAR(damage(chosen), best, 1e-12);
  }
  std::printf("[counts] cases=%d\n", kCases);
}

// On one window of held-out text: sums of single damages are near the damage of the mix, and no uniform pair
// of the candidates with as few bits does better.
TEST(WidthSearch, AMixKeepsItsBudgetAndBeatsOnePairForAll) {
  const qwen3::Model model = qwen3::load_model(qwen3::tiny_model());
  const auto text = model.tokenizer.encode(qwen3::read_text(qwen3::tiny_model() / "text_end.txt"));
  qwen3::ThreadPool pool(2);
  qwen3::Decoder decoder(model, pool);
  const CommonOptions options{
      .model = {}, .json = {}, .calibration = {}, .cache = {}, .threads = 2, .seed = 0};
  const CacheSetup setup(options, decoder, empty_calibration(model));
  WindowScorer scorer(decoder, last_windows(text, 512, 512, 1), 0, [](uint64_t) {});
  scorer.run([&] { return setup.open({QUIRE_CODEC_BF16, QUIRE_CODEC_BF16}); });
  int runs = 0;
  WidthSearch search(scorer, setup, {QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT3, QUIRE_CODEC_ROT2}, 512,
                     [&](const std::string&) { ++runs; });
  search.measure(Sensitivity::kDirect);
  EXPECT_EQ(runs, 24);
  EXPECT_EQ(search.runs(Sensitivity::kDirect), 24U);
  for (uint32_t layer = 0; layer < 4; ++layer) {
    EXPECT_LT(search.damage(layer, false, 0), search.damage(layer, false, 2));
  }

  const WindowScore uniform = scorer.run([&] { return setup.open({QUIRE_CODEC_ROT3, QUIRE_CODEC_ROT3}); });
  const auto budget = static_cast<float>(uniform.stats.page_bits + 0.005);
  double predicted = 0;
  Calibration calibration = empty_calibration(model);
  calibration.mixes = {search.choose(budget, &predicted)};
  const CacheSetup mixed(options, decoder, calibration);
  const WindowScore score = scorer.run([&] { return mixed.open(parse_codec_pair("calibrated")); });
  EXPECT_LE(score.stats.page_bits, double{budget});
  EXPECT_LT(score.kld_mean, uniform.kld_mean);
  EXPECT_NEAR(score.kld_mean / predicted, 1, 0.3);

  EXPECT_NE(
      qwen3::error_of([&] { search.choose(1.5F, &predicted); }).find("no mix of the candidates has 1.50"),
      std::string::npos);
}

}  // namespace
}  // namespace quire::bench
