// quire-micro: how fast the kernels are, against a plain read of the same bytes and against the peak of the
// instruction that they multiply with. Google Benchmark runs the cases; README.md says what the columns mean.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "bench/micro/cases.h"

namespace quire::micro {
namespace {

// Prints the row of a case when it is done.
class RowReporter final : public benchmark::BenchmarkReporter {
 public:
  explicit RowReporter(const std::vector<Row>& rows) : rows_(rows) {}

  bool ReportContext(const Context& /*context*/) override {
    std::printf("%s\n", headings().c_str());
    return true;
  }
  void ReportRuns(const std::vector<Run>& /*runs*/) override {
    for (; printed_ < rows_.size(); ++printed_) std::printf("%s\n", line_of(rows_[printed_]).c_str());
    std::fflush(stdout);
  }

 private:
  const std::vector<Row>& rows_;
  size_t printed_ = 0;
};

void register_case(const NamedCase& named, std::vector<Row>* rows) {
  const auto run = [&named, rows](benchmark::State& state) {
    const std::unique_ptr<Measurement> measurement = named.make();
    for (auto _ : state) state.SetIterationTime(measurement->round());
    rows->push_back(measurement->row());
  };
  benchmark::RegisterBenchmark(named.name.c_str(), run)->UseManualTime()->Iterations(named.rounds);
}

bool write_rows(const std::string& path, const std::vector<Row>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& row : rows) list.push_back(to_json(row));
  std::ofstream file(path);
  file << list.dump(1) << "\n";
  file.close();
  return static_cast<bool>(file);
}

int run(int argc, char** argv) {
  // Google Benchmark would print its own options and leave.
  const bool help = std::ranges::any_of(std::span(argv, static_cast<size_t>(argc)),
                                        [](const char* word) { return std::string_view(word) == "--help"; });
  if (!help) benchmark::Initialize(&argc, argv);
  const Options options = parse_options(argc, argv);
  const std::vector<NamedCase> cases = make_cases(options);
  std::vector<Row> rows;
  for (const NamedCase& named : cases) register_case(named, &rows);
  RowReporter reporter(rows);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  if (rows.empty()) {
    std::fprintf(stderr, "quire-micro: no case was chosen; see --help and --benchmark_list_tests\n");
    return 2;
  }
  if (!options.json.empty() && !write_rows(options.json, rows)) {
    std::fprintf(stderr, "quire-micro: cannot write %s; give --json a file that can be written\n",
                 options.json.c_str());
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace quire::micro

int main(int argc, char** argv) { return quire::micro::run(argc, argv); }
