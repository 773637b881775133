#include "bench/gpu/report.h"

#include <cstdio>
#include <fstream>

namespace quire::gpu {
namespace {

nlohmann::json to_json(const Row& row) {
  nlohmann::json json{{"name", row.name},          {"variant", row.variant}, {"ms", row.time.ms},
                      {"spread", row.time.spread}, {"amount", row.amount},   {"unit", row.unit},
                      {"rate", row.rate()}};
  if (row.reference > 0) json.update({{"reference", row.reference}, {"of", row.of}, {"share", row.share()}});
  if (row.goal > 0) json.update({{"goal", row.goal}, {"met", row.share() >= row.goal}});
  return json;
}

}  // namespace

Report::Report(nlohmann::json facts) : facts_(std::move(facts)) {
  for (const auto& [name, value] : facts_.items())
    std::printf("%s: %s\n", name.c_str(), value.dump().c_str());
  std::printf("%-10s %-34s %10s %7s %12s  %s\n", "what", "of", "us", "spread", "rate", "share");
  std::fflush(stdout);
}

void Report::add(const Row& row) {
  std::printf("%-10s %-34s %10.1f %6.1f%% %9.1f G%s/s", row.name.c_str(), row.variant.c_str(),
              row.time.ms * 1e3, row.time.spread * 100, row.rate() * 1e-9, row.unit.c_str());
  if (row.reference > 0) std::printf("  %.3f of %s", row.share(), row.of.c_str());
  if (row.goal > 0) std::printf(" (goal %.2f%s)", row.goal, row.share() >= row.goal ? ", met" : "");
  std::printf("\n");
  std::fflush(stdout);
  rows_.push_back(row);
}

bool Report::print_goals() const {
  size_t goals = 0;
  size_t met = 0;
  for (const Row& row : rows_) {
    if (row.goal == 0) continue;
    ++goals;
    if (row.share() >= row.goal) ++met;
  }
  std::printf("goals met: %zu of %zu\n", met, goals);
  return met == goals;
}

bool Report::write(const std::string& path) const {
  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : rows_) rows.push_back(to_json(row));
  std::ofstream file(path);
  file << nlohmann::json{{"facts", facts_}, {"rows", rows}}.dump(1) << "\n";
  file.close();
  return static_cast<bool>(file);
}

}  // namespace quire::gpu
