// quire-peers: the time of the same attention in ggml (FLASH_ATTN_EXT) and in Quire, in turns.
//
// Both take their threads from a pool of their own and hand the finished output back; times are the caller's.
// Before every lap the other side's threads get time to fall asleep: they spin when their work is done.
#include <ggml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "bench/micro/pooled_attention.h"
#include "bench/peers/ggml_attention.h"

namespace quire::peers {
namespace {

using micro::Row;
using micro::SharedHeads;
using micro::Spread;

constexpr uint32_t kKvHeads = 8;
constexpr SectionShape kShape{64, 128};
constexpr auto kSettle = std::chrono::milliseconds(20);
constexpr double kOutputTolerance = 0.05;
constexpr uint32_t kCheckedTokens = 512;

struct Options {
  std::vector<std::string> cases{"decode", "prefill"};
  std::vector<uint32_t> groups{2, 4, 8};
  std::vector<uint32_t> threads{2};
  std::vector<uint32_t> decode_tokens{16384, 131072};
  std::vector<uint32_t> queries{256, 512};
  uint32_t prefill_tokens = 16384;
  uint32_t prefill_group = 4;
  uint32_t rounds = 5;
  uint32_t prefill_rounds = 3;
  std::string json;
};

// A type of ggml's and the codecs that stand against it.
struct Pairing {
  const char* type;
  std::vector<const char*> codecs;
};
const std::vector<Pairing>& pairings() {
  static const std::vector<Pairing> all{
      {"f16", {"bf16", "int8", "rot4"}}, {"q8_0", {"int8", "rot4"}}, {"q4_0", {"int4", "rot4"}}};
  return all;
}

// What both sides do. Prefill attends one kv head of the eight in memory: heads cost the same.
struct Work {
  std::string name;
  uint32_t group;
  uint32_t n_q;
  uint32_t n_kv;
  uint32_t threads;

  uint32_t kv_heads() const { return n_q == 1 ? kKvHeads : 1; }
};

// Wall time, and processor time of all threads: on a busy machine the latter says more.
struct Lap {
  double wall;
  double cpu;
};

double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Lap time(const std::function<void()>& run) {
  std::this_thread::sleep_for(kSettle);
  const Lap start{seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
  run();
  return {seconds_of(CLOCK_MONOTONIC) - start.wall, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - start.cpu};
}

using Times = std::map<std::string, std::vector<Lap>>;  // by type and layout, or by codec

std::string key_of(const std::string& type, Layout layout) { return type + " " + layout_name(layout); }

// Shows that ggml attends what the shape says. Over few tokens: it adds up values of f16 in f16, which loses
// more with every thousand.
void check_output(GgmlShape shape) {
  shape.n_kv = std::min(shape.n_kv, kCheckedTokens);
  GgmlAttention attention(shape);
  attention.run();
  if (attention.largest_difference() <= kOutputTolerance) return;
  throw std::runtime_error("ggml's output for " + key_of(shape.type, shape.layout) +
                           " is not what its values say: this version needs another caller");
}

// Runs everything in turns.
Times measure(const Work& work, uint32_t rounds) {
  std::vector<std::pair<std::string, std::function<void()>>> runs;

  for (const Pairing& pairing : pairings()) {
    for (const Layout layout : {Layout::kHeadMajor, Layout::kTokenMajor}) {
      const GgmlShape shape{pairing.type, layout,   kShape.dim, kKvHeads,    work.kv_heads(),
                            work.group,   work.n_q, work.n_kv,  work.threads};
      check_output(shape);
      const auto attention = std::make_shared<GgmlAttention>(shape);
      attention->run();
      runs.emplace_back(key_of(pairing.type, layout), [attention] { attention->run(); });
    }
  }
  for (const char* name : {"bf16", "int8", "int4", "rot4"}) {
    const CodecId codec = find_codec(std::string_view(name))->id;
    const PageKind kind{codec, codec, KeySpace::kPostRope, 0, static_cast<uint16_t>(work.kv_heads()), kShape};
    const auto heads = std::make_shared<const micro::FoldedHeads>(
        micro::make_folded_heads(best_kernels(), kind, work.n_kv, 1));
    const auto attention =
        std::make_shared<micro::PooledAttention>(heads, best_kernels(), work.group, work.n_q, work.threads);
    attention->run();
    runs.emplace_back(name, [attention] { attention->run(); });
  }
  Times times;
  for (uint32_t round = 0; round < rounds; ++round) {
    for (const auto& [name, run] : runs) times[name].push_back(time(run));
  }
  return times;
}

nlohmann::json row_of(const Work& work, const Pairing& pairing, Layout layout, const char* codec,
                      Times& times) {
  const std::vector<Lap>& peer = times[key_of(pairing.type, layout)];
  const std::vector<Lap>& quire = times[codec];
  const auto spread = [&](const std::function<double(const Lap&, const Lap&)>& value) {
    std::vector<double> values;
    for (size_t i = 0; i < peer.size(); ++i) values.push_back(value(peer[i], quire[i]));
    return micro::spread_of(std::move(values));
  };
  const Spread ratio = spread([](const Lap& p, const Lap& q) { return p.wall / q.wall; });
  const Spread cpu_ratio = spread([](const Lap& p, const Lap& q) { return p.cpu / q.cpu; });
  return {{"peer", "ggml"},
          {"peer_version", ggml_version()},
          {"case", work.name},
          {"peer_type", pairing.type},
          {"layout", layout_name(layout)},
          {"k_codec", codec},
          {"v_codec", codec},
          {"group", work.group},
          {"kv_heads", work.kv_heads()},
          {"n_q", work.n_q},
          {"n_kv", work.n_kv},
          {"threads", work.threads},
          {"isa", isa_name(best_kernels().isa)},
          {"rounds", peer.size()},
          {"peer_seconds", spread([](const Lap& p, const Lap&) { return p.wall; }).median},
          {"quire_seconds", spread([](const Lap&, const Lap& q) { return q.wall; }).median},
          {"ratio", ratio.median},
          {"ratio_p25", ratio.p25},
          {"ratio_p75", ratio.p75},
          {"cpu_ratio", cpu_ratio.median},
          {"version", QUIRE_VERSION}};
}

void print(const nlohmann::json& row) {
  std::printf("%-8s %2u %5u %7u  %2u  %-5s %-12s %9.2f  %-5s %9.2f  %6.2f  %6.2f-%-6.2f  %6.2f\n",
              row["case"].get<std::string>().c_str(), row["group"].get<unsigned>(),
              row["n_q"].get<unsigned>(), row["n_kv"].get<unsigned>(), row["threads"].get<unsigned>(),
              row["peer_type"].get<std::string>().c_str(), row["layout"].get<std::string>().c_str(),
              row["peer_seconds"].get<double>() * 1e3, row["k_codec"].get<std::string>().c_str(),
              row["quire_seconds"].get<double>() * 1e3, row["ratio"].get<double>(),
              row["ratio_p25"].get<double>(), row["ratio_p75"].get<double>(), row["cpu_ratio"].get<double>());
  std::fflush(stdout);
}

nlohmann::json rows_of(const Work& work, uint32_t rounds) {
  Times times = measure(work, rounds);
  nlohmann::json rows = nlohmann::json::array();
  for (const Pairing& pairing : pairings()) {
    for (const char* codec : pairing.codecs) {
      for (const Layout layout : {Layout::kHeadMajor, Layout::kTokenMajor}) {
        rows.push_back(row_of(work, pairing, layout, codec, times));
        print(rows.back());
      }
    }
  }
  return rows;
}

std::vector<Work> works_of(const Options& options) {
  const auto wants = [&](const char* name) {
    return std::ranges::find(options.cases, name) != options.cases.end();
  };
  std::vector<Work> works;
  for (const uint32_t threads : options.threads) {
    for (const uint32_t group : options.groups) {
      for (const uint32_t n_kv : options.decode_tokens) {
        if (wants("decode")) works.push_back({"decode", group, 1, n_kv, threads});
      }
    }
    for (const uint32_t n_q : options.queries) {
      if (wants("prefill")) {
        works.push_back({"prefill", options.prefill_group, n_q, options.prefill_tokens, threads});
      }
    }
  }
  return works;
}

Options parse(CLI::App& app, int argc, char** argv) {
  Options options;
  const std::vector<std::string> cases = options.cases;
  app.add_option("--cases", options.cases)->delimiter(',')->check(CLI::IsMember(cases));
  app.add_option("--groups", options.groups, "query heads of one kv head, of decode")
      ->delimiter(',')
      ->check(CLI::Range(1, 16));
  app.add_option("--threads", options.threads)->delimiter(',')->check(CLI::Range(1, 256));
  app.add_option("--tokens", options.decode_tokens, "n_kv of decode")->delimiter(',');
  app.add_option("--n-q", options.queries, "query tokens of prefill")
      ->delimiter(',')
      ->check(CLI::Range(2, 4096));
  app.add_option("--prefill-tokens", options.prefill_tokens, "n_kv of prefill");
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 100000));
  app.add_option("--prefill-group", options.prefill_group, "query heads of one kv head")
      ->check(CLI::Range(1, 16));
  app.add_option("--prefill-rounds", options.prefill_rounds, "ggml takes seconds for one")
      ->check(CLI::Range(1, 100000));
  app.add_option("--json", options.json, "write the rows to this file");
  app.parse(argc, argv);
  std::vector<uint32_t> tokens = options.decode_tokens;
  tokens.push_back(options.prefill_tokens);
  for (const uint32_t n : tokens) {
    if (n == 0 || n % kShape.tokens != 0) {
      throw CLI::ValidationError("--tokens, --prefill-tokens", "are to be multiples of 64, more than none");
    }
  }
  return options;
}

int run(int argc, char** argv) {
  CLI::App app("Attention in ggml and in Quire, in turns: how many times faster Quire is.");
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return "quire-peers: " + std::string(error.what()) + "; see --help\n";
  });
  try {
    const Options options = parse(app, argc, argv);
    std::printf(
        "case      G   n_q    n_kv thr  ggml  layout              ms  Quire        ms   ratio     p25-p75    "
        " cpu ratio\n");
    nlohmann::json rows = nlohmann::json::array();
    for (const Work& work : works_of(options)) {
      const nlohmann::json made = rows_of(work, work.n_q == 1 ? options.rounds : options.prefill_rounds);
      rows.insert(rows.end(), made.begin(), made.end());
    }
    if (options.json.empty()) return 0;
    std::ofstream file(options.json);
    file << rows.dump(1) << "\n";
    file.close();
    if (!file) throw CLI::ValidationError("--json", "cannot write " + options.json);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quire-peers: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace quire::peers

int main(int argc, char** argv) { return quire::peers::run(argc, argv); }
