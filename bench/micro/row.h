// One line of the report: a case, how long it takes, and what it cannot go below.
// Thread safety: plain values.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace quire::micro {

// The median of a value over all rounds, and its quartiles.
struct Spread {
  double p25 = 0;
  double median = 0;
  double p75 = 0;
};
Spread spread_of(std::vector<double> values);  // at least one

struct Row {
  // What is measured. 0 where a case has no such thing.
  std::string name;  // "case"
  std::string k_codec;
  std::string v_codec;
  std::string key_space;
  std::string isa;
  uint32_t group = 0;
  uint32_t threads = 1;
  uint64_t n_q = 0;
  uint64_t n_kv = 0;
  uint64_t bytes = 0;           // read and written
  double macs = 0;              // multiply-accumulates, counted as the kernels execute them
  double sampled = 1;           // share of the case that a round works through; seconds are for all of it
  std::optional<double> error;  // relative L2

  // Measured.
  uint32_t rounds = 0;
  Spread seconds;      // wall time of the slowest thread
  Spread cpu_seconds;  // processor time of the slowest thread
  double read_seconds = 0;
  double read_cpu_seconds = 0;
  double mac_seconds = 0;
  double floor_seconds = 0;  // what the case cannot go below
  Spread share;              // floor / seconds, round by round
};

nlohmann::json to_json(const Row& row);

// A line of text for people, and the headings of such lines.
std::string headings();
std::string line_of(const Row& row);

}  // namespace quire::micro
