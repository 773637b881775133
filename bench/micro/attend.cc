// quire-micro-attend: how fast decode attention reads folded pages, against a plain read of the same bytes.
//
// All variants of one codec pair take turns within each round, so that what else runs on the machine hits
// them alike. A time is the CPU time of the slowest thread, the median of all rounds. Pages lie in shuffled
// order; each thread takes a share of them and goes through it in runs, head by head, as the store does.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>
#include <string>
#include <thread>

#include "bench/micro/folded_heads.h"

namespace quire::micro {
namespace {

struct Options {
  std::vector<std::string> codecs{"rot4/rot4", "rot3/rot2", "int8/int8",
                                  "int4/int4", "int3/int3", "int2/int2"};
  std::vector<uint32_t> groups{2, 4, 8};
  std::vector<uint32_t> threads{1, 2};
  size_t tokens = 131072;
  uint32_t page_tokens = 64;
  uint32_t head_dim = 128;
  uint16_t kv_heads = 8;
  size_t run_pages = 16;
  int rounds = 7;
  std::string isa = "best";
  std::string json;
};

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> times) {
  std::ranges::sort(times);
  return times[times.size() / 2];
}

// f(thread) on each of n threads. Returns the busy time of the slowest.
double on_threads(uint32_t n, const std::function<void(uint32_t)>& f) {
  std::vector<double> times(n);
  {
    std::vector<std::jthread> threads;
    for (uint32_t i = 0; i < n; ++i) {
      threads.emplace_back([&times, &f, i] {
        const double start = thread_seconds();
        f(i);
        times[i] = thread_seconds() - start;
      });
    }
  }
  return std::ranges::max(times);
}

// The sum of all bytes' words: what a read costs when nothing is done with it.
uint64_t read_pages(std::span<const uint8_t* const> pages, size_t bytes) {
  uint64_t sums[8] = {};
  for (const uint8_t* page : pages) {
    for (size_t at = 0; at < bytes; at += sizeof(sums)) {
      for (size_t i = 0; i < 8; ++i) {
        uint64_t word;
        __builtin_memcpy(&word, page + at + 8 * i, 8);
        sums[i] += word;
      }
    }
  }
  uint64_t all = 0;
  for (const uint64_t sum : sums) all += sum;
  return all;
}

// Decode attention of `group` rows for every kv head over one thread's pages.
class Decode {
 public:
  Decode(const Kernels& kernels, const FoldedHeads& heads, uint32_t group, std::span<const float> q)
      : kernels_(kernels),
        heads_(heads),
        group_(group),
        q_(q),
        o_(size_t{heads.kind.kv_heads} * group * heads.kind.shape.dim),
        m_(o_.size() / heads.kind.shape.dim),
        l_(m_.size()),
        scratch_(kernels.attend_scratch_bytes(group, heads.kind.shape)) {}

  void attend(size_t first_page, size_t end_page, size_t run_pages) {
    std::ranges::fill(o_, 0.0F);
    std::ranges::fill(m_, -HUGE_VALF);
    std::ranges::fill(l_, 0.0F);
    const size_t dim = heads_.kind.shape.dim;
    for (size_t page = first_page; page < end_page; page += run_pages) {
      const size_t count = std::min(run_pages, end_page - page);
      for (size_t head = 0; head < heads_.kind.kv_heads; ++head) {
        const size_t row = head * group_;
        FoldedPages folded = heads_.folded();
        const bool last_head = head + 1 == heads_.kind.kv_heads;
        const size_t next_page = last_head ? std::min(page + count, end_page - 1) : page;
        folded.next_call = heads_.heads[last_head ? 0 : head + 1][next_page].section;
        kernels_.attend_folded(folded, std::span(heads_.heads[head]).subspan(page, count),
                               {q_.data() + row * dim, group_, nullptr},
                               {o_.data() + row * dim, m_.data() + row, l_.data() + row}, scratch_.data());
      }
    }
  }

 private:
  const Kernels& kernels_;
  const FoldedHeads& heads_;
  uint32_t group_;
  std::span<const float> q_;
  std::vector<float> o_;
  std::vector<float> m_;
  std::vector<float> l_;
  BigBuffer scratch_;
};

struct Variant {
  uint32_t threads;
  uint32_t group;               // 0: the plain read
  std::function<double()> run;  // seconds
  std::vector<double> times;
};

std::vector<float> make_queries(const Options& options, uint32_t most) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  const auto scale = static_cast<float>(std::numbers::log2e / std::sqrt(options.head_dim));
  std::vector<float> q(size_t{options.kv_heads} * most * options.head_dim);
  for (float& x : q) x = normal(random) * scale;
  return q;
}

std::vector<Variant> make_variants(const Options& options, const Kernels& kernels, const FoldedHeads& heads,
                                   std::span<const float> q) {
  std::vector<Variant> variants;
  const size_t pages = heads.pages.size();
  static volatile uint64_t sink = 0;
  for (const uint32_t threads : options.threads) {
    variants.push_back({threads,
                        0,
                        [&heads, threads, pages] {
                          return on_threads(threads, [&](uint32_t i) {
                            const size_t first = pages * i / threads;
                            const auto share =
                                std::span(heads.pages).subspan(first, pages * (i + 1) / threads - first);
                            sink = sink + read_pages(share, heads.layout.bytes);
                          });
                        },
                        {}});
    for (const uint32_t group : options.groups) {
      auto decodes = std::make_shared<std::vector<std::unique_ptr<Decode>>>();
      for (uint32_t i = 0; i < threads; ++i) {
        decodes->push_back(std::make_unique<Decode>(kernels, heads, group, q));
      }
      variants.push_back({threads,
                          group,
                          [decodes, threads, pages, &options] {
                            return on_threads(threads, [&](uint32_t i) {
                              (*decodes)[i]->attend(pages * i / threads, pages * (i + 1) / threads,
                                                    options.run_pages);
                            });
                          },
                          {}});
    }
  }
  return variants;
}

const CodecInfo& codec_named(const std::string& name) {
  const CodecInfo* codec = find_codec(name);
  if (codec == nullptr) throw CLI::ValidationError("--codecs", "no codec is called '" + name + "'");
  return *codec;
}

nlohmann::json measure(const Options& options, const Kernels& kernels, const std::string& pair) {
  const size_t slash = pair.find('/');
  const CodecInfo& key = codec_named(pair.substr(0, slash));
  const CodecInfo& value = codec_named(slash == std::string::npos ? pair : pair.substr(slash + 1));
  const SectionShape shape{options.page_tokens, options.head_dim};
  const PageKind kind{key.id, value.id, KeySpace::kPostRope, 0, options.kv_heads, shape};
  const FoldedHeads heads = make_folded_heads(kernels, kind, options.tokens, 1);
  const std::vector<float> q = make_queries(options, std::ranges::max(options.groups));
  const double error = attend_error(kernels, heads, std::span(q).first(options.head_dim), 64);

  std::vector<Variant> variants = make_variants(options, kernels, heads, q);
  for (Variant& variant : variants) variant.run();
  for (int round = 0; round < options.rounds; ++round) {
    for (Variant& variant : variants) {
      variant.times.push_back(variant.run());
    }
  }
  nlohmann::json rows = nlohmann::json::array();
  double floor = 0;
  for (const Variant& variant : variants) {
    const double time = median(variant.times);
    if (variant.group == 0) {
      floor = time;
      continue;
    }
    const auto bytes = static_cast<double>(heads.bytes());
    rows.push_back(
        {{"k_codec", key.name},
         {"v_codec", value.name},
         {"isa", isa_name(kernels.isa)},
         {"group", variant.group},
         {"threads", variant.threads},
         {"tokens", options.tokens},
         {"bytes", heads.bytes()},
         {"ms", time * 1e3},
         {"gb_per_s", bytes / time * 1e-9},
         {"floor_gb_per_s", bytes / floor * 1e-9},
         {"share_of_floor", floor / time},
         {"ns_per_token_and_head", time * 1e9 / static_cast<double>(options.tokens * options.kv_heads)},
         {"error", error}});
  }
  return rows;
}

void print(const nlohmann::json& rows) {
  for (const auto& row : rows) {
    std::printf(
        "%-5s %-5s  G %u  threads %u  %8.3f ms  %6.2f GB/s  %5.2f of a plain read  %6.2f ns/token/head  "
        "error %.1e\n",
        row["k_codec"].get<std::string>().c_str(), row["v_codec"].get<std::string>().c_str(),
        row["group"].get<unsigned>(), row["threads"].get<unsigned>(), row["ms"].get<double>(),
        row["gb_per_s"].get<double>(), row["share_of_floor"].get<double>(),
        row["ns_per_token_and_head"].get<double>(), row["error"].get<double>());
  }
  std::fflush(stdout);
}

const Kernels& kernels_named(const std::string& name) {
  if (name == "best") return best_kernels();
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (name != isa_name(isa)) continue;
    if (const Kernels* kernels = find_kernels(isa)) return *kernels;
    throw CLI::ValidationError("--isa", "this machine has no " + name);
  }
  throw CLI::ValidationError("--isa", "'" + name + "' is none of best, scalar, avx2, avx512");
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("Decode attention over folded pages: time, bandwidth, error");
  app.add_option("--codecs", options.codecs, "codec pairs, as rot4/rot4")->delimiter(',');
  app.add_option("--groups", options.groups, "query heads of one kv head")->delimiter(',');
  app.add_option("--threads", options.threads)->delimiter(',');
  app.add_option("--tokens", options.tokens);
  app.add_option("--page-tokens", options.page_tokens)->check(CLI::IsMember({32, 64, 128}));
  app.add_option("--head-dim", options.head_dim)->check(CLI::Range(32, 256));
  app.add_option("--kv-heads", options.kv_heads);
  app.add_option("--run-pages", options.run_pages, "pages of one call")->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds)->check(CLI::PositiveNumber);
  app.add_option("--isa", options.isa, "best, scalar, avx2 or avx512");
  app.add_option("--json", options.json, "write the rows to this file");
  try {
    app.parse(argc, argv);
    const Kernels& kernels = kernels_named(options.isa);
    std::printf("%s, %zu tokens, %u kv heads, head_dim %u\n", isa_name(kernels.isa), options.tokens,
                options.kv_heads, options.head_dim);
    nlohmann::json all = nlohmann::json::array();
    for (const std::string& pair : options.codecs) {
      const nlohmann::json rows = measure(options, kernels, pair);
      print(rows);
      all.insert(all.end(), rows.begin(), rows.end());
    }
    if (options.json.empty()) return 0;
    std::ofstream file(options.json);
    file << all.dump(2) << "\n";
    if (!file) throw CLI::ValidationError("--json", "cannot write " + options.json);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return 0;
}

}  // namespace
}  // namespace quire::micro

int main(int argc, char** argv) { return quire::micro::run(argc, argv); }
