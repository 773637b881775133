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

// Which pairs can meet: the store's disk is asked during the last operations alone, and only its process
// ends.
struct Table {
  const char* title;
  size_t faults;
  size_t first_operation;
};
constexpr Table kSpillTable{"faults that hit", kSimFaultCount - 2, 0};
constexpr Table kStoreTable{"the store's disk", kDiskFaults, kOperationCount - kStoreOperations};

void print_table(const FaultCounts& counts, const Table& table) {
  std::printf("%-18s", table.title);
  for (size_t o = table.first_operation; o < kOperationCount; ++o)
    std::printf("%9.*s", static_cast<int>(kOperationNames[o].size()), kOperationNames[o].data());
  std::printf("\n");
  for (size_t f = 0; f < table.faults; ++f) {
    std::printf("%-18.*s", static_cast<int>(kFaultNames[f].size()), kFaultNames[f].data());
    for (size_t o = table.first_operation; o < kOperationCount; ++o)
      std::printf("%9llu", static_cast<unsigned long long>(counts.hits[f][o]));
    std::printf("\n");
  }
}

uint64_t pairs_without(const FaultCounts& counts, const Table& table) {
  uint64_t none = 0;
  for (size_t f = 0; f < table.faults; ++f) {
    for (size_t o = table.first_operation; o < kOperationCount; ++o) none += counts.hits[f][o] == 0 ? 1 : 0;
  }
  return none;
}

uint64_t ends(const FaultCounts& counts, SimFault fault) {
  return counts.hits[static_cast<size_t>(fault)][static_cast<size_t>(Operation::kRestart)];
}

int run(const Options& options) {
  FaultCounts counts;
  FaultCounts store_counts;
  uint64_t published = 0;
  uint64_t adopted = 0;
  uint64_t restarts = 0;
  uint64_t operations = 0;
  uint64_t refills = 0;
  uint64_t errors = 0;
  uint64_t comparisons = 0;
  uint64_t partial = 0;
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
    store_counts.add(result.store_counts);
    published += result.published_blocks;
    adopted += result.adopted_blocks;
    restarts += result.restarts;
    operations += result.operations;
    refills += result.refills;
    errors += result.errors;
    comparisons += result.comparisons;
    partial += result.partial_pages;
    few_faults += result.faults < 3 ? 1 : 0;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.find) {
    std::printf("no seed of %llu finds the mistake\n", static_cast<unsigned long long>(options.seeds));
    return 1;
  }
  print_table(counts, kSpillTable);
  print_table(store_counts, kStoreTable);
  const uint64_t killed = ends(store_counts, SimFault::kKilled);
  const uint64_t power_lost = ends(store_counts, SimFault::kPowerLost);
  const uint64_t none = pairs_without(counts, kSpillTable) + pairs_without(store_counts, kStoreTable) +
                        (killed == 0 ? 1 : 0) + (power_lost == 0 ? 1 : 0);
  std::printf(
      "%llu restarts, %llu of them after a kill and %llu after a loss of power, %llu blocks published, "
      "%llu adopted from the store\n",
      static_cast<unsigned long long>(restarts), static_cast<unsigned long long>(killed),
      static_cast<unsigned long long>(power_lost), static_cast<unsigned long long>(published),
      static_cast<unsigned long long>(adopted));
  std::printf(
      "%llu operations, %llu refills, %llu errors that faults explain, %llu rows compared bit by bit, %llu "
      "pages read in part, "
      "%llu pairs that never met, %llu seeds with fewer than 3 faults, %.1f s\n",
      static_cast<unsigned long long>(operations), static_cast<unsigned long long>(refills),
      static_cast<unsigned long long>(errors), static_cast<unsigned long long>(comparisons),
      static_cast<unsigned long long>(partial), static_cast<unsigned long long>(none),
      static_cast<unsigned long long>(few_faults), seconds);
  std::printf("[counts] cases=%llu seeds=%llu faults=%llu\n", static_cast<unsigned long long>(operations),
              static_cast<unsigned long long>(options.seeds),
              static_cast<unsigned long long>(counts.sum() + store_counts.sum()));
  const bool whole = options.seeds >= 1000;
  return few_faults > 0 || (whole && (none > 0 || partial == 0)) ? 1 : 0;
}

}  // namespace
}  // namespace quire::testing

int main(int argc, char** argv) {
  quire::testing::Options options;
  if (const int stop = quire::testing::parse(argc, argv, &options); stop != 0) return stop - 1;
  return quire::testing::run(options);
}
