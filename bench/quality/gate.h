// A baseline of quality figures in a file, and the check that a run is not worse.
//
// The file says which model and text it is of, how the run was cut into windows and what the cache was like,
// so that the gate repeats it; a figure may be worse than its row's by the margin that the file gives for it.
// Thread safety: pure functions and plain data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "bench/qwen3/model.h"
#include "bench/row.h"

namespace quire::bench {

// How much worse a figure may be: relative * |baseline| + absolute.
struct Margin {
  double relative;
  double absolute;
  std::string reason;
};

// The figures that a gate looks at, by their keys in rows.
struct Figure {
  const char* key;
  bool higher_is_worse;
  Margin margin;  // where the file gives none
};
const std::vector<Figure>& gate_figures();

// What a baseline is of: any other model or text makes figures that do not compare.
struct Subject {
  std::string model;
  std::string text;
  uint64_t model_fingerprint;
  uint64_t text_fingerprint;  // of its tokens
};
Subject subject_of(const qwen3::Model& model, const std::filesystem::path& text,
                   std::span<const int32_t> tokens);

class Baseline {
 public:
  // Throws Error, whose sentence names the file, when it is missing or no baseline.
  static Baseline read(const std::filesystem::path& path);
  // The margins of the file at `path`, if there is one, or the usual ones.
  static Baseline like(const std::filesystem::path& path);

  // Takes a run's settings and rows over and writes the file. Throws Error.
  void write(const std::filesystem::path& path, const Subject& subject, const nlohmann::json& settings,
             const std::vector<Row>& rows);

  // Throws Error when the baseline is of another model or text.
  void check_subject(const Subject& subject) const;
  const nlohmann::json& settings() const { return settings_; }
  std::vector<std::string> codecs() const;

  // Prints a table of every figure against its limit. False when any is worse than that.
  bool check(const std::vector<Row>& rows) const;

 private:
  struct FileRow {
    std::string codec;
    std::vector<double> values;  // of gate_figures
  };

  std::string name_;
  Subject subject_;
  nlohmann::json settings_;
  std::vector<Margin> margins_;  // of gate_figures
  std::vector<FileRow> rows_;
};

}  // namespace quire::bench
