#include "bench/quality/gate.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "bench/calibration/calibration.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"

namespace quire::bench {
namespace {

using nlohmann::json;

constexpr const char* kWayOut = "; write it again with quire-ppl --baseline";

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

double number_at(const json& object, const char* key, const std::string& where) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || !found->is_number()) {
    throw qwen3::Error(where + " has no number \"" + key + "\"" + kWayOut);
  }
  return found->get<double>();
}

const json& part(const json& object, const char* key, json::value_t type, const std::string& name) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || found->type() != type) {
    throw qwen3::Error(name + " has no \"" + key + "\" as baselines have" + kWayOut);
  }
  return *found;
}

std::vector<double> figures_of(const json& row, const std::string& where) {
  std::vector<double> values;
  for (const Figure& figure : gate_figures()) values.push_back(number_at(row, figure.key, where));
  return values;
}

std::vector<Margin> usual_margins() {
  std::vector<Margin> margins;
  for (const Figure& figure : gate_figures()) margins.push_back(figure.margin);
  return margins;
}

std::vector<Margin> margins_of(const json& file, const std::string& name) {
  std::vector<Margin> margins;
  const json& from = part(file, "margins", json::value_t::object, name);
  for (const Figure& figure : gate_figures()) {
    const std::string where = name + ": margins." + figure.key;
    const json& margin = part(from, figure.key, json::value_t::object, name);
    margins.push_back({number_at(margin, "relative", where), number_at(margin, "absolute", where),
                       margin.value("reason", "")});
    if (!(margins.back().relative >= 0 && margins.back().absolute >= 0)) {
      throw qwen3::Error(where + " is negative; margins are 0 or more");
    }
  }
  return margins;
}

}  // namespace

// Measured on the tiny model with nine pairs of codecs: kernels for AVX-512, AVX2 and the scalar table, and
// two of OpenBLAS's. Three times the largest difference, rounded; the absolute parts are for codecs that cost
// next to nothing.
const std::vector<Figure>& gate_figures() {
  static const std::string kernels = "instruction sets differ by up to ";
  static const std::string bytes = "bytes are the same on every machine";
  static const std::vector<Figure> figures{
      {"ppl", true, {0.0006, 0, kernels + "0.0002 of it"}},
      {"kld_mean", true, {0.01, 1e-6, kernels + "0.003 of it"}},
      {"kld_p999", true, {0.06, 1e-4, kernels + "0.03 of it, or 4e-5: it rests on few tokens"}},
      {"same_top1", false, {0, 0.003, kernels + "0.0012"}},
      {"effective_bits", true, {0, 1e-6, bytes}},
      {"page_bits", true, {0, 1e-6, bytes}},
  };
  return figures;
}

Subject subject_of(const qwen3::Model& model, const std::filesystem::path& text,
                   std::span<const int32_t> tokens) {
  return {model.name, text.empty() ? "King James" : text.filename().string(), fingerprint(model),
          XXH3_64bits(tokens.data(), tokens.size_bytes())};
}

Baseline Baseline::read(const std::filesystem::path& path) {
  Baseline out;
  out.name_ = path.string();
  const json file = qwen3::read_json(path);
  const auto text_at = [&](const char* key) {
    return part(file, key, json::value_t::string, out.name_).get<std::string>();
  };
  const auto fingerprint_at = [&](const char* key) {
    return static_cast<uint64_t>(std::strtoull(text_at(key).c_str(), nullptr, 16));
  };
  out.subject_ = {text_at("model"), text_at("text"), fingerprint_at("model_fingerprint"),
                  fingerprint_at("text_fingerprint")};
  out.settings_ = part(file, "settings", json::value_t::object, out.name_);
  out.margins_ = margins_of(file, out.name_);
  for (const json& row : part(file, "rows", json::value_t::array, out.name_)) {
    const std::string where = out.name_ + ": row " + std::to_string(out.rows_.size());
    out.rows_.push_back(
        {part(row, "codec", json::value_t::string, where).get<std::string>(), figures_of(row, where)});
  }
  if (out.rows_.empty()) throw qwen3::Error(out.name_ + " has no rows" + kWayOut);
  return out;
}

Baseline Baseline::like(const std::filesystem::path& path) {
  Baseline out;
  out.margins_ = std::filesystem::exists(path) ? read(path).margins_ : usual_margins();
  return out;
}

void Baseline::write(const std::filesystem::path& path, const Subject& subject, const json& settings,
                     const std::vector<Row>& rows) {
  using ordered = nlohmann::ordered_json;
  ordered margins;
  for (size_t i = 0; i < margins_.size(); ++i) {
    const Margin& margin = margins_[i];
    margins[gate_figures()[i].key] = {
        {"relative", margin.relative}, {"absolute", margin.absolute}, {"reason", margin.reason}};
  }
  ordered list = ordered::array();
  for (const Row& row : rows) {
    const json from = to_json(row);
    ordered& to = list.emplace_back();
    to["codec"] = row.codec.name();
    for (const Figure& figure : gate_figures()) to[figure.key] = from[figure.key];
  }
  ordered file;
  file["model"] = subject.model;
  file["model_fingerprint"] = hex(subject.model_fingerprint);
  file["text"] = subject.text;
  file["text_fingerprint"] = hex(subject.text_fingerprint);
  file["settings"] = settings;
  file["margins"] = margins;
  file["rows"] = list;
  std::ofstream out(path);
  out << file.dump(1) << '\n';
  out.close();
  if (!out) {
    throw qwen3::Error("cannot write " + path.string() + "; give --baseline a file that can be written");
  }
}

void Baseline::check_subject(const Subject& subject) const {
  if (subject.model_fingerprint != subject_.model_fingerprint) {
    throw qwen3::Error(name_ + " is of another model, \"" + subject_.model +
                       "\"; give --model that one, or write a new baseline");
  }
  if (subject.text_fingerprint != subject_.text_fingerprint) {
    throw qwen3::Error(name_ + " is of another text, \"" + subject_.text +
                       "\"; give --text that one, or write a new baseline");
  }
}

std::vector<std::string> Baseline::codecs() const {
  std::vector<std::string> names;
  for (const FileRow& row : rows_) names.push_back(row.codec);
  return names;
}

bool Baseline::check(const std::vector<Row>& rows) const {
  bool good = true;
  std::printf("%-16s %-14s %12s %12s %12s\n", "codecs", "figure", "baseline", "limit", "now");
  for (size_t r = 0; r < rows_.size(); ++r) {
    const std::vector<double> now = figures_of(to_json(rows[r]), rows_[r].codec);
    for (size_t i = 0; i < now.size(); ++i) {
      const Figure& figure = gate_figures()[i];
      const double base = rows_[r].values[i];
      const double allowed = margins_[i].relative * std::abs(base) + margins_[i].absolute;
      const double limit = figure.higher_is_worse ? base + allowed : base - allowed;
      // Written so that NaN is worse.
      const bool fine = figure.higher_is_worse ? now[i] <= limit : now[i] >= limit;
      const bool better = figure.higher_is_worse ? now[i] < base - allowed : now[i] > base + allowed;
      const char* verdict = fine ? (better ? "  better" : "") : "  WORSE";
      std::printf("%-16s %-14s %12.6g %12.6g %12.6g%s\n", rows_[r].codec.c_str(), figure.key, base, limit,
                  now[i], verdict);
      good = good && fine;
    }
  }
  return good;
}

}  // namespace quire::bench
