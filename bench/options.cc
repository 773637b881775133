#include "bench/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "bench/qwen3/error.h"
#include "bench/qwen3/thread_pool.h"

namespace quire::bench {
namespace {

constexpr int kBadInput = 2;

const std::map<std::string, quire_io_engine> kIoEngines{
    {"auto", QUIRE_IO_AUTO}, {"io_uring", QUIRE_IO_URING}, {"threads", QUIRE_IO_THREADS}};
const std::map<std::string, quire_key_space> kKeySpaces{{"post_rope", QUIRE_POST_ROPE},
                                                        {"pre_rope", QUIRE_PRE_ROPE}};

const std::map<std::string, quire_eviction> kEvictions{
    {"auto", QUIRE_EVICT_AUTO},     {"newest", QUIRE_EVICT_NEWEST}, {"lru", QUIRE_EVICT_LRU},
    {"s3fifo", QUIRE_EVICT_S3FIFO}, {"mass", QUIRE_EVICT_MASS},     {"frequency", QUIRE_EVICT_FREQUENCY}};

template <typename Value>
std::string name_of(const std::map<std::string, Value>& names, Value value) {
  for (const auto& [name, known] : names) {
    if (known == value) return name;
  }
  return "";
}

constexpr std::string_view kCalibrated = "calibrated";

std::string mix_name(float budget) {
  if (budget == CodecPair::kOnlyMix) return std::string(kCalibrated);
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%s@%.2f", kCalibrated.data(), static_cast<double>(budget));
  return text.data();
}

CodecPair parse_mix(const std::string& text) {
  CodecPair pair{QUIRE_CODEC_DEFAULT, QUIRE_CODEC_DEFAULT, CodecPair::kOnlyMix};
  if (text == kCalibrated) return pair;
  const std::string bits = text.substr(std::min(text.size(), kCalibrated.size() + 1));
  char* end = nullptr;
  pair.mix = std::strtof(bits.c_str(), &end);
  if (text[kCalibrated.size()] == '@' && *end == '\0' && pair.mix > 0 && pair.mix <= 64) return pair;
  throw qwen3::Error("\"" + text + "\" is no mix of a calibration; write calibrated or calibrated@BITS");
}

}  // namespace

std::string CodecPair::name() const { return mix == kNoMix ? key_name() + "/" + value_name() : key_name(); }

std::string CodecPair::key_name() const { return mix == kNoMix ? qwen3::codec_name(key) : mix_name(mix); }

std::string CodecPair::value_name() const { return mix == kNoMix ? qwen3::codec_name(value) : mix_name(mix); }

CodecPair parse_codec_pair(const std::string& text) {
  if (text.starts_with(kCalibrated)) return parse_mix(text);
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return {qwen3::parse_codec(text), qwen3::parse_codec(text)};
  return {qwen3::parse_codec(text.substr(0, slash)), qwen3::parse_codec(text.substr(slash + 1))};
}

void parse_selection(const std::string& text, qwen3::SelectionOptions* selection) {
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  const std::string number = colon == std::string::npos ? "" : text.substr(colon + 1);
  char* end = nullptr;
  if (text == "none") {
    selection->kind = QUIRE_SELECT_NONE;
    return;
  }
  const bool digit =
      !number.empty() && (std::isdigit(static_cast<unsigned char>(number[0])) != 0 || number[0] == '.');
  if (kind == "top" && digit) {
    const unsigned long pages = std::strtoul(number.c_str(), &end, 10);
    selection->kind = QUIRE_SELECT_TOP_PAGES;
    selection->pages = static_cast<uint32_t>(std::min<unsigned long>(pages, UINT32_MAX));
    selection->share = 0;
    if (*end == '\0') return;
  }
  if (kind == "share" && digit) {
    selection->kind = QUIRE_SELECT_TOP_PAGES;
    selection->pages = 0;
    selection->share = std::strtof(number.c_str(), &end);
    if (*end == '\0' && selection->share > 0 && selection->share <= 1) return;
  }
  if (kind == "mass" && digit) {
    selection->kind = QUIRE_SELECT_MASS;
    selection->mass = std::strtof(number.c_str(), &end);
    if (*end == '\0' && selection->mass > 0 && selection->mass <= 1) return;
  }
  throw qwen3::Error("\"" + text +
                     "\" chooses no pages; write none, top:K with a number of pages, share:F with a share of "
                     "them, or mass:F with a share of the attention, at most 1");
}

std::string selection_name(const qwen3::SelectionOptions& selection) {
  std::array<char, 48> text{};
  switch (selection.kind) {
    case QUIRE_SELECT_NONE:
      return "none";
    case QUIRE_SELECT_TOP_PAGES:
      if (selection.share == 0) return "top:" + std::to_string(selection.pages);
      std::snprintf(text.data(), text.size(), "share:%g", static_cast<double>(selection.share));
      return text.data();
    case QUIRE_SELECT_MASS:
      std::snprintf(text.data(), text.size(), "mass:%g", static_cast<double>(selection.mass));
      return text.data();
  }
  return "";
}

uint32_t parse_device(const std::string& text) {
  if (text == "cpu") return QUIRE_DEVICE_CPU;
  if (text == "cuda") return QUIRE_DEVICE_CUDA;
  uint32_t index = 0;
  const std::string prefix = "cuda:";
  const char* end = text.data() + text.size();
  if (text.starts_with(prefix) && text.size() > prefix.size()) {
    const auto parsed = std::from_chars(text.data() + prefix.size(), end, index);
    if (parsed.ec == std::errc() && parsed.ptr == end && index < 1024) return QUIRE_DEVICE_CUDA + index;
  }
  throw qwen3::Error("there is no device \"" + text + "\"; choose cpu, cuda or cuda:N, counted from 0");
}

std::string device_name(uint32_t device) {
  return device == QUIRE_DEVICE_CPU ? "cpu" : "cuda:" + std::to_string(device - QUIRE_DEVICE_CUDA);
}

std::filesystem::path temporary_folder() {
  const char* folder = std::getenv("TMPDIR");
  return folder == nullptr || *folder == '\0' ? "/tmp" : folder;
}

void add_common_options(CLI::App& app, CommonOptions* options) {
  qwen3::CacheOptions& cache = options->cache;
  options->model = QUIRE_DEFAULT_MODEL;
  options->threads = qwen3::default_threads();
  cache.nvme_path = temporary_folder();

  app.add_option("--model", options->model, "Folder of a Qwen3, Qwen2 or Llama model, or a .gguf file")
      ->capture_default_str();
  app.add_option("--calibration", options->calibration,
                 "File of quire-calibrate for this model (default: what its weights say)");
  app.add_option("--json", options->json, "File to write the results to");
  app.add_option("--threads", options->threads, "Threads of decoder and cache")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--seed", options->seed, "Seed of everything that is random")->capture_default_str();

  const auto bytes = CLI::AsSizeValue(false);
  const std::string group = "Cache";
  app.add_option_function<std::string>(
         "--device", [&cache](const std::string& text) { cache.device = parse_device(text); },
         "What folds and attends pages in --device-budget, and runs the decoder of quire-generate, quire-ppl "
         "and quire-scale: cpu, or cuda (cuda:1 is the second)")
      ->group(group);
  app.add_option(
         "--device-budget", cache.device_budget,
         "Memory of the device tier, e.g. 4G (with --device cpu host memory by another name); 0: none")
      ->transform(bytes)
      ->capture_default_str()
      ->group(group);
  app.add_option(
         "--device-link", cache.device_link_speed,
         "Bytes per second from host memory to --device cuda, e.g. 50G: decides which pages that have left "
         "--device-budget go there to be attended; 0: measured")
      ->transform(bytes)
      ->capture_default_str()
      ->group(group);
  app.add_option(
         "--host-attend", cache.host_attend_speed,
         "Bytes of pages times query rows (of a kv head, at least 4) that the CPU attends per second, for "
         "the same decision; 0: measured")
      ->transform(bytes)
      ->capture_default_str()
      ->group(group);
  app.add_option("--device-attend", cache.device_attend_speed, "The same of --device cuda; 0: measured")
      ->transform(bytes)
      ->capture_default_str()
      ->group(group);
  app.add_option("--host-budget", cache.host_budget, "Memory of the cache, e.g. 16M")
      ->transform(bytes)
      ->capture_default_str()
      ->group(group);
  app.add_option("--nvme-budget", cache.nvme_budget, "Disk of the cache, e.g. 4G; 0: none")
      ->transform(bytes)
      ->capture_default_str()
      ->group(group);
  app.add_option("--nvme-path", cache.nvme_path, "Folder of the spill file")
      ->capture_default_str()
      ->group(group);
  app.add_option("--compress", cache.nvme_compression,
                 "zstd level, 1 to 9, of pages on disk where that saves more than 5 %; 0: none")
      ->check(CLI::Range(0, 9))
      ->capture_default_str()
      ->group(group);
  app.add_option("--io-engine", cache.io_engine, "auto, io_uring or threads")
      ->transform(CLI::CheckedTransformer(kIoEngines))
      ->group(group);
  app.add_option("--eviction", cache.eviction,
                 "Which pages leave memory first: auto, newest, lru, s3fifo, mass or frequency")
      ->transform(CLI::CheckedTransformer(kEvictions))
      ->group(group);
  app.add_option("--key-space", cache.key_space, "post_rope, or pre_rope: Quire rotates")
      ->transform(CLI::CheckedTransformer(kKeySpaces))
      ->group(group);
  app.add_option("--page-tokens", cache.page_tokens, "32, 64 or 128")->capture_default_str()->group(group);
  app.add_option("--sink-tokens", cache.sink_tokens, "First tokens that stay unfolded, at most 32")
      ->capture_default_str()
      ->group(group);
  app.add_option("--chunk", cache.chunk_tokens, "Tokens of one prefill pass")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(group);
  const std::string selective = "Selective attention";
  app.add_option_function<std::string>(
         "--select", [&cache](const std::string& text) { parse_selection(text, &cache.select); },
         "Pages that tokens attend which are written or scored: none, top:K, share:F of all pages or mass:F, "
         "per kv head")
      ->group(selective);
  app.add_option("--select-window", cache.select.window, "Tokens before a query that are always attended")
      ->capture_default_str()
      ->group(selective);
  app.add_flag("--select-check", cache.select.check,
               "Attend the other pages, too, apart: tells exactly what mass is missed; slow")
      ->group(selective);
  app.add_flag(
         "--choose-ahead", cache.choose_ahead,
         "While a layer runs, read from disk what its input, taken for the next layer's, would choose there; "
         "of tokens that are written one by one (with --fill synthetic the guess is always right)")
      ->group(selective);
  app.add_option_function<std::string>(
         "--sparse-prefill", [&cache](const std::string& text) { parse_selection(text, &cache.prefill); },
         "The same for the tokens of a prompt, which choose together within a page")
      ->group(selective);
  app.add_option("--prefill-window", cache.prefill.window, "Tokens that they always attend")
      ->capture_default_str()
      ->group(selective);
  app.add_option("--trace", cache.trace_path, "File for a Chrome trace of compute and I/O")->group(group);
  app.add_option("--access-trace", cache.access_trace_path,
                 "File for the pages that every step attends, for quire-trace; of one run alone")
      ->group(group);
}

quire_key_space parse_key_space(const std::string& name) {
  const auto found = kKeySpaces.find(name);
  if (found != kKeySpaces.end()) return found->second;
  throw qwen3::Error("there is no key space \"" + name + "\"; choose from post_rope, pre_rope");
}

nlohmann::json to_json(const CommonOptions& options) {
  const qwen3::CacheOptions& cache = options.cache;
  return {{"model", options.model.filename().string()},
          {"threads", options.threads},
          {"seed", options.seed},
          {"calibration", options.calibration.filename().string()},
          {"device", device_name(cache.device)},
          {"device_budget", cache.device_budget},
          {"device_link", cache.device_link_speed},
          {"host_attend", cache.host_attend_speed},
          {"device_attend", cache.device_attend_speed},
          {"host_budget", cache.host_budget},
          {"nvme_budget", cache.nvme_budget},
          {"compress", cache.nvme_compression},
          {"io_engine", name_of(kIoEngines, cache.io_engine)},
          {"eviction", name_of(kEvictions, cache.eviction)},
          {"key_space", name_of(kKeySpaces, cache.key_space)},
          {"page_tokens", cache.page_tokens},
          {"sink_tokens", cache.sink_tokens},
          {"chunk", cache.chunk_tokens},
          {"select", selection_name(cache.select)},
          {"window", cache.select.window},
          {"sparse_prefill", selection_name(cache.prefill)},
          {"prefill_window", cache.prefill.window}};
}

int run_program(CLI::App& app, int argc, char** argv, const std::function<void()>& body) {
  try {
    app.parse(argc, argv);
    body();
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    std::cerr << app.get_name() << ": " << e.what() << "; see --help\n";
    return kBadInput;
  } catch (const std::exception& e) {
    std::cout.flush();
    std::cerr << app.get_name() << ": " << e.what() << '\n';
    return kBadInput;
  }
}

}  // namespace quire::bench
