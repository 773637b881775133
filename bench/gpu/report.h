// What was measured: rows that are printed as they come and written as JSON in the end. Thread safety: none.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/gpu/timer.h"

namespace quire::gpu {

struct Row {
  std::string name;     // "attend", "encode", ..
  std::string variant;  // codec and shape of the call
  Time time{};
  double amount = 0;     // of `unit` in one call: bytes that have to move, or operations
  std::string unit;      // "B" or "op"
  double reference = 0;  // the rate of the same unit per second that the share is of; 0: none
  std::string of;        // what the reference is
  double goal = 0;       // the share that is asked for, 0: none

  double rate() const { return amount / (time.ms * 1e-3); }
  double share() const { return reference > 0 ? rate() / reference : 0; }
};

class Report {
 public:
  // The heading of what follows; facts of the run go into the file.
  explicit Report(nlohmann::json facts);
  void add(const Row& row);
  // Prints which goals were met; true when all were.
  bool print_goals() const;
  // False when the file cannot be written.
  bool write(const std::string& path) const;

 private:
  nlohmann::json facts_;
  std::vector<Row> rows_;
};

}  // namespace quire::gpu
