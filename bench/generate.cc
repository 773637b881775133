// quire-generate: prompt in, text out, through a cache of any codec.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "bench/cache_setup.h"
#include "bench/memory.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/fingerprint.h"
#include "bench/qwen3/json_file.h"
#include "bench/qwen3/model.h"
#include "bench/qwen3/reading.h"
#include "bench/row.h"

namespace quire::bench {
namespace {

struct GenerateOptions {
  CommonOptions common;
  std::string codec = "rot4/rot4";
  std::string prompt;
  std::filesystem::path prompt_file;
  uint64_t max_tokens = 128;
  qwen3::SamplingOptions sampling;
  bool stats = false;
  uint64_t tenant = 0;  // 0: shared
};

// What reuse of earlier prompts did for this one.
struct Reuse {
  bool on = false;
  qwen3::PrefixOwner owner;
  uint64_t reused = 0;  // tokens of the prompt
  uint64_t stored = 0;  // blocks
};

std::string prompt_of(const GenerateOptions& options) {
  if (!options.prompt.empty()) return options.prompt;
  if (!options.prompt_file.empty() && options.prompt_file != "-")
    return qwen3::read_text(options.prompt_file);
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void write_json(const GenerateOptions& options, const Reuse& reuse, const std::vector<Row>& rows,
                const std::string& text) {
  if (options.common.json.empty()) return;
  nlohmann::json settings = to_json(options.common);
  settings["temperature"] = options.sampling.temperature;
  settings["top_k"] = options.sampling.top_k;
  settings["top_p"] = options.sampling.top_p;
  settings["max_tokens"] = options.max_tokens;
  settings["text"] = text;
  if (reuse.on) {
    settings["reused_tokens"] = reuse.reused;
    settings["stored_blocks"] = reuse.stored;
  }
  write_rows(options.common.json, settings, rows);
}

void print_reuse(const Reuse& reuse, size_t prompt_tokens, const Row& row) {
  if (!reuse.on) return;
  std::fprintf(
      stderr,
      "store: %llu of %zu prompt tokens reused, first token after %.3f s; %llu blocks added, %llu of %llu "
      "in use\n",
      static_cast<unsigned long long>(reuse.reused), prompt_tokens, row.ttft_s.value_or(0),
      static_cast<unsigned long long>(reuse.stored), static_cast<unsigned long long>(row.stats.store_blocks),
      static_cast<unsigned long long>(row.stats.store_capacity_blocks));
}

void generate(GenerateOptions options) {
  using Clock = std::chrono::steady_clock;
  const CodecPair pair = parse_codec_pair(options.codec);
  options.sampling.seed = options.common.seed;
  Reuse reuse{!options.common.cache.store_path.empty(), {{options.tenant, 0}}};
  write_json(options, reuse, {}, "");  // tells at once when it cannot be written
  qwen3::Sampler sampler(options.sampling);
  const qwen3::Model model = qwen3::load_model(options.common.model);
  const std::vector<int32_t> prompt = model.tokenizer.encode(prompt_of(options));
  qwen3::ThreadPool pool(options.common.threads);
  qwen3::Decoder decoder(model, pool, options.common.cache.device);
  qwen3::CacheOptions& cache_options = options.common.cache;
  if (reuse.on) {
    cache_options.fingerprint = qwen3::model_fingerprint(model, cache_options.prefill, cache_options.select);
  }
  const CacheSetup setup(options.common, decoder);
  qwen3::Cache cache = setup.open(pair);
  qwen3::Session session(decoder, cache, prompt.size() + options.max_tokens);

  Row row;
  qwen3::TextStream stream;
  std::string text;
  const auto start = Clock::now();
  auto last = start;
  if (reuse.on) reuse.reused = session.adopt(prompt, reuse.owner);
  const auto print = [&](const std::string& piece) {
    text += piece;
    std::cout << piece << std::flush;
  };
  qwen3::generate(
      session, prompt, sampler, options.max_tokens,
      [&](int32_t token) {
        const auto now = Clock::now();
        const double seconds = std::chrono::duration<double>(now - last).count();
        last = now;
        if (!row.ttft_s) {
          row.ttft_s = seconds;
          row.prefill_tok_s = static_cast<double>(prompt.size() - reuse.reused) / seconds;
        } else {
          row.decode_seconds.push_back(seconds);
        }
        print(stream.push(model.tokenizer.bytes_of(token)));
        return static_cast<bool>(std::cout);  // a closed pipe ends it
      },
      reuse.reused);
  print(stream.finish() + "\n");
  if (reuse.on) reuse.stored = session.publish(reuse.owner);

  row.model = model.name;
  row.context = session.length();
  row.codec = pair;
  row.seed = options.common.seed;
  row.threads = options.common.threads;
  row.stats = cache.stats();
  set_selection(cache.options().prefill, cache.options().select, {}, row.stats, &row);
  row.peak_rss = peak_rss();
  if (options.stats) print_table({row});
  print_reuse(reuse, prompt.size(), row);
  write_json(options, reuse, {row}, text);
}

void add_options(CLI::App& app, GenerateOptions* options) {
  CLI::Option* prompt = app.add_option("-p,--prompt", options->prompt, "Text to write on from");
  app.add_option("--prompt-file", options->prompt_file,
                 "File with the prompt; -, the default: standard input")
      ->excludes(prompt);
  app.add_option("-n,--max-tokens", options->max_tokens, "Most tokens to write")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--codec", options->codec, "Pair for keys/values, e.g. rot4/rot3")->capture_default_str();
  app.add_option("--temperature", options->sampling.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k", options->sampling.top_k, "Keep the k likeliest tokens; 0: all")
      ->capture_default_str();
  app.add_option("--top-p", options->sampling.top_p, "Keep the likeliest tokens of this share")
      ->capture_default_str();
  const std::string group = "Store";
  qwen3::CacheOptions& cache = options->common.cache;
  app.add_option("--store", cache.store_path,
                 "File that keeps what was read: a later run starts behind the first tokens that it knows")
      ->group(group);
  app.add_option("--store-budget", cache.store_budget, "Most bytes of that file")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str()
      ->group(group);
  app.add_option("--tenant", options->tenant,
                 "Secret number without which nobody finds what this run keeps; 0: shared")
      ->capture_default_str()
      ->group(group);
  app.add_flag("--stats", options->stats, "Print what the cache held, and the speed");
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  CLI::App app("Writes on from a prompt with a model, through a paged low-bit cache.", "quire-generate");
  app.footer(
      "Example: 64 tokens, drawn from the likeliest 50\n"
      "  quire-generate -p 'In the beginning' -n 64 --codec rot4/rot3 --temperature 0.8 --top-k 50 --stats\n"
      "A long prompt twice: the second run does not read again what the store holds\n"
      "  quire-generate --prompt-file long.txt -n 32 --store blocks.quire");
  quire::bench::GenerateOptions options;
  quire::bench::add_common_options(app, &options.common);
  quire::bench::add_options(app, &options);
  return quire::bench::run_program(app, argc, argv, [&] { quire::bench::generate(options); });
}
