// quire_simulation: lives of an engine from many seeds, or one of them again.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/simulation/simulation.h"

namespace quire::testing {
namespace {

constexpr const char* kHelp =
    "usage: quire_simulation [--first N] [--seeds N] [--seed N] [--find]\n"
    "\n"
    "Simulates the life of an engine on a disk that breaks, once per seed, and checks every answer.\n"
    "  --seeds N  how many seeds (default 100)\n"
    "  --first N  the first of them (default 1)\n"
    "  --seed N   this one alone, and what it does, line by line\n"
    "  --find     exit with 0 when a seed finds a mistake, with 1 when none does: for canaries\n"
    "example: quire_simulation --first 1000 --seeds 50\n";

struct Options {
  uint64_t first = 1;
  uint64_t seeds = 100;
  bool verbose = false;
  bool find = false;
};

bool parse_number(const char* text, uint64_t* out) {
  char* end = nullptr;
  *out = std::strtoull(text, &end, 10);
  return *text != '\0' && *text != '-' && *end == '\0';
}

// 0 to go on, else what to exit with plus one.
int parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--help") {
      std::fputs(kHelp, stdout);
      return 1;
    }
    if (name == "--find") {
      options->find = true;
      continue;
    }
    uint64_t value = 0;
    const bool known = name == "--first" || name == "--seeds" || name == "--seed";
    if (!known || i + 1 == argc || !parse_number(argv[++i], &value)) {
      std::fprintf(stderr, "quire_simulation: '%s' is no option with a number; see --help\n", name.c_str());
      return 3;
    }
    if (name == "--seeds") options->seeds = value;
    if (name != "--seeds") options->first = value;
    if (name == "--seed") options->seeds = 1;
    if (name == "--seed") options->verbose = true;
  }
  return 0;
}

void print_table(const FaultCounts& counts) {
  std::printf("%-18s", "faults that hit");
  for (const std::string_view name : kOperationNames)
    std::printf("%9.*s", static_cast<int>(name.size()), name.data());
  std::printf("\n");
  for (size_t f = 0; f < kSimFaultCount; ++f) {
    std::printf("%-18.*s", static_cast<int>(kFaultNames[f].size()), kFaultNames[f].data());
    for (const uint64_t n : counts.hits[f]) std::printf("%9llu", static_cast<unsigned long long>(n));
    std::printf("\n");
  }
}

uint64_t pairs_without(const FaultCounts& counts) {
  uint64_t none = 0;
  for (const auto& row : counts.hits) {
    for (const uint64_t n : row) none += n == 0 ? 1 : 0;
  }
  return none;
}

int run(const Options& options) {
  FaultCounts counts;
  uint64_t operations = 0;
  uint64_t refills = 0;
  uint64_t errors = 0;
  uint64_t comparisons = 0;
  uint64_t few_faults = 0;
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t seed = options.first; seed < options.first + options.seeds; ++seed) {
    const SimulationResult result = simulate(seed, options.verbose);
    if (!result.failure.empty()) {
      std::printf("seed %llu: %s\nagain: quire_simulation --seed %llu\n",
                  static_cast<unsigned long long>(seed), result.failure.c_str(),
                  static_cast<unsigned long long>(seed));
      return options.find ? 0 : 1;
    }
    counts.add(result.counts);
    operations += result.operations;
    refills += result.refills;
    errors += result.errors;
    comparisons += result.comparisons;
    few_faults += result.faults < 3 ? 1 : 0;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.find) {
    std::printf("no seed of %llu finds the mistake\n", static_cast<unsigned long long>(options.seeds));
    return 1;
  }
  print_table(counts);
  const uint64_t none = pairs_without(counts);
  std::printf(
      "%llu operations, %llu refills, %llu errors that faults explain, %llu rows compared bit by bit, "
      "%llu pairs that never met, %llu seeds with fewer than 3 faults, %.1f s\n",
      static_cast<unsigned long long>(operations), static_cast<unsigned long long>(refills),
      static_cast<unsigned long long>(errors), static_cast<unsigned long long>(comparisons),
      static_cast<unsigned long long>(none), static_cast<unsigned long long>(few_faults), seconds);
  std::printf("[counts] cases=%llu seeds=%llu faults=%llu\n", static_cast<unsigned long long>(operations),
              static_cast<unsigned long long>(options.seeds), static_cast<unsigned long long>(counts.sum()));
  const bool whole = options.seeds >= 1000;
  return few_faults > 0 || (whole && none > 0) ? 1 : 0;
}

}  // namespace
}  // namespace quire::testing

int main(int argc, char** argv) {
  quire::testing::Options options;
  if (const int stop = quire::testing::parse(argc, argv, &options); stop != 0) return stop - 1;
  return quire::testing::run(options);
}
