// One measured run: the keys of the programs' JSON files and of their table. bench/README.md explains them.
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/options.h"
#include "bench/qwen3/score.h"

namespace quire::bench {

struct Row {
  std::string model;
  std::optional<std::string> text;  // the name of what was read
  uint64_t context = 0;
  CodecPair codec{};
  std::string selection = "none";  // of tokens that are written or scored
  std::string sparse_prefill = "none";
  bool synthetic = false;
  uint64_t seed = 0;
  uint32_t threads = 0;
  quire_stats stats{};  // of the cache at the end of the run
  uint64_t peak_rss = 0;
  // What a run does not measure stays empty.
  std::optional<double> prefill_tok_s;
  std::optional<double> ttft_s;
  std::vector<double> decode_seconds;  // per token
  std::optional<double> ppl;
  std::optional<double> ppl_ref;
  std::optional<double> kld_mean;
  std::optional<double> kld_p999;
  std::optional<double> same_top1;
  std::optional<double> missed_mass;  // selective runs: mean share of attention mass on pages left out
  std::optional<double> attended;     // and the share of folded pages that was attended, of written tokens
  std::optional<uint32_t> needles;
  std::optional<uint32_t> needles_found;
};

// Takes the figures of a divergence over.
void set_divergence(const qwen3::Divergence& divergence, Row* row);

// How a run chose pages: what was chosen and missed between two readings of the cache's figures.
void set_selection(const qwen3::SelectionOptions& prefill, const qwen3::SelectionOptions& select,
                   const quire_stats& before, const quire_stats& after, Row* row);

// `stats` less the traffic and the busy time that passed between two earlier readings.
quire_stats without(quire_stats stats, const quire_stats& from, const quire_stats& to);

nlohmann::json to_json(const Row& row);

// Writes {"options": ..., "rows": [...]}; does nothing when `path` is empty. Throws qwen3::Error.
void write_rows(const std::filesystem::path& path, const nlohmann::json& options,
                const std::vector<Row>& rows);

void print_table(const std::vector<Row>& rows);

}  // namespace quire::bench
