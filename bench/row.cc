#include "bench/row.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/qwen3/error.h"

namespace quire::bench {
namespace {

using nlohmann::json;

template <typename T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

// The value of rank ceil(share * n).
std::optional<double> quantile_ms(std::vector<double> seconds, double share) {
  if (seconds.empty()) return std::nullopt;
  std::sort(seconds.begin(), seconds.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(seconds.size())));
  return 1e3 * seconds[std::max<size_t>(rank, 1) - 1];
}

std::optional<double> decode_tok_s(const Row& row) {
  if (row.decode_seconds.empty()) return std::nullopt;
  const double seconds = std::accumulate(row.decode_seconds.begin(), row.decode_seconds.end(), 0.0);
  return static_cast<double>(row.decode_seconds.size()) / seconds;
}

std::string isa() {
  quire_capabilities_info info{};
  info.struct_size = sizeof info;
  return quire_capabilities(&info) == QUIRE_OK ? info.isa : "unknown";
}

std::string text_of(const char* format, std::optional<double> value) {
  if (!value) return "-";
  char text[64];
  // The formats are the table's own, below.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  std::snprintf(text, sizeof text, format, *value);
#pragma GCC diagnostic pop
  return text;
}

double mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// The share of `from` that `to` is smaller by.
std::optional<double> saved(uint64_t from, uint64_t to) {
  if (from == 0) return {};
  return 1 - static_cast<double>(to) / static_cast<double>(from);
}

uint64_t host_kv_bytes(const quire_stats& stats) { return stats.host_page_bytes + stats.host_tail_bytes; }

std::string loss_text(const Row& row) {
  if (!row.ppl || !row.ppl_ref) return "-";
  return text_of("%+.2f%%", 100 * (*row.ppl / *row.ppl_ref - 1));
}

std::string needles_text(const Row& row) {
  if (!row.needles || *row.needles == 0) return "-";
  return std::to_string(row.needles_found.value_or(0)) + "/" + std::to_string(*row.needles);
}

std::string percent_text(std::optional<double> share) {
  return share ? text_of("%.1f%%", 100 * *share) : "-";
}

struct Column {
  const char* title;
  std::function<std::string(const Row&)> cell;
};

std::vector<Column> all_columns() {
  return {
      {"context", [](const Row& r) { return std::to_string(r.context) + (r.synthetic ? "*" : ""); }},
      {"codecs", [](const Row& r) { return r.codec.name(); }},
      {"page bits", [](const Row& r) { return text_of("%.2f", r.stats.page_bits); }},
      {"eff. bits", [](const Row& r) { return text_of("%.2f", r.stats.effective_bits); }},
      {"host MiB", [](const Row& r) { return text_of("%.1f", mib(host_kv_bytes(r.stats))); }},
      {"nvme MiB", [](const Row& r) { return text_of("%.1f", mib(r.stats.nvme_bytes)); }},
      {"saved",
       [](const Row& r) { return percent_text(saved(r.stats.demoted_bytes, r.stats.stored_bytes)); }},
      {"zstd gain",
       [](const Row& r) { return percent_text(saved(r.stats.tried_bytes, r.stats.packed_bytes)); }},
      {"RSS MiB", [](const Row& r) { return text_of("%.0f", mib(r.peak_rss)); }},
      {"prefill tok/s", [](const Row& r) { return text_of("%.0f", r.prefill_tok_s); }},
      {"decode tok/s", [](const Row& r) { return text_of("%.1f", decode_tok_s(r)); }},
      {"p99 ms", [](const Row& r) { return text_of("%.1f", quantile_ms(r.decode_seconds, 0.99)); }},
      {"ppl", [](const Row& r) { return text_of("%.3f", r.ppl); }},
      {"loss", loss_text},
      {"KLD", [](const Row& r) { return text_of("%.5f", r.kld_mean); }},
      {"same top1", [](const Row& r) { return text_of("%.4f", r.same_top1); }},
      {"select", [](const Row& r) { return r.selection; }},
      {"attended", [](const Row& r) { return text_of("%.4f", r.attended); }},
      {"missed", [](const Row& r) { return text_of("%.5f", r.missed_mass); }},
      {"needles", needles_text},
  };
}

// What selective runs, and runs that compress, alone have is left out where there is none.
std::vector<Column> columns(const std::vector<Row>& rows) {
  std::vector<Column> out = all_columns();
  const auto leave_out = [&](auto has, std::initializer_list<std::string_view> titles) {
    if (std::any_of(rows.begin(), rows.end(), has)) return;
    std::erase_if(out, [&](const Column& column) { return std::ranges::count(titles, column.title) > 0; });
  };
  leave_out([](const Row& row) { return row.selection != "none" || row.sparse_prefill != "none"; },
            {"select", "attended", "missed"});
  leave_out([](const Row& row) { return row.stats.tried_bytes > 0; }, {"saved", "zstd gain"});
  return out;
}

}  // namespace

void set_divergence(const qwen3::Divergence& divergence, Row* row) {
  row->kld_mean = divergence.mean();
  row->kld_p999 = divergence.p999();
  row->same_top1 = divergence.same_top1();
}

quire_stats without(quire_stats stats, const quire_stats& from, const quire_stats& to) {
  stats.read_bytes -= to.read_bytes - from.read_bytes;
  stats.written_bytes -= to.written_bytes - from.written_bytes;
  stats.host_attended_pages -= to.host_attended_pages - from.host_attended_pages;
  stats.device_attended_pages -= to.device_attended_pages - from.device_attended_pages;
  stats.carried_pages -= to.carried_pages - from.carried_pages;
  stats.demoted_bytes -= to.demoted_bytes - from.demoted_bytes;
  stats.stored_bytes -= to.stored_bytes - from.stored_bytes;
  stats.tried_bytes -= to.tried_bytes - from.tried_bytes;
  stats.packed_bytes -= to.packed_bytes - from.packed_bytes;
  stats.encode_seconds -= to.encode_seconds - from.encode_seconds;
  stats.attend_seconds -= to.attend_seconds - from.attend_seconds;
  stats.foreseen_sections -= to.foreseen_sections - from.foreseen_sections;
  stats.foreseen_sections_used -= to.foreseen_sections_used - from.foreseen_sections_used;
  stats.select_seconds -= to.select_seconds - from.select_seconds;
  stats.io_seconds -= to.io_seconds - from.io_seconds;
  stats.io_wait_seconds -= to.io_wait_seconds - from.io_wait_seconds;
  return stats;
}

void set_selection(const qwen3::SelectionOptions& prefill, const qwen3::SelectionOptions& select,
                   const quire_stats& before, const quire_stats& after, Row* row) {
  row->selection = selection_name(select);
  row->sparse_prefill = selection_name(prefill);
  const auto rows_before = static_cast<double>(before.selected_rows);
  const auto rows_after = static_cast<double>(after.selected_rows);
  if (rows_after <= rows_before || select.kind == QUIRE_SELECT_NONE) return;
  row->missed_mass =
      (after.missed_mass * rows_after - before.missed_mass * rows_before) / (rows_after - rows_before);
  const auto chosen = static_cast<double>(after.pages_chosen - before.pages_chosen);
  const auto skipped = static_cast<double>(after.pages_skipped - before.pages_skipped);
  if (chosen + skipped > 0) row->attended = chosen / (chosen + skipped);
}

json to_json(const Row& row) {
  const quire_stats& stats = row.stats;
  return {{"model", row.model},
          {"text", or_null(row.text)},
          {"context", row.context},
          {"codec", row.codec.name()},
          {"peer", nullptr},
          {"k_codec", row.codec.key_name()},
          {"v_codec", row.codec.value_name()},
          {"prefill_tok_s", or_null(row.prefill_tok_s)},
          {"decode_tok_s", or_null(decode_tok_s(row))},
          {"effective_bits", stats.effective_bits},
          {"page_bits", stats.page_bits},
          {"kv_bytes_device", stats.device_bytes},
          {"kv_bytes_host", host_kv_bytes(stats)},
          {"kv_bytes_nvme", stats.nvme_bytes},
          {"host_bytes", stats.host_bytes},
          {"peak_rss", row.peak_rss},
          {"attended_pages_host", stats.host_attended_pages},
          {"attended_pages_device", stats.device_attended_pages},
          {"carried_pages", stats.carried_pages},
          {"io_read_bytes", stats.read_bytes},
          {"io_write_bytes", stats.written_bytes},
          {"compress_saved", or_null(saved(stats.demoted_bytes, stats.stored_bytes))},
          {"compress_gain", or_null(saved(stats.tried_bytes, stats.packed_bytes))},
          {"io_engine", stats.io_engine == nullptr ? "none" : stats.io_engine},
          {"seconds_encode", stats.encode_seconds},
          {"seconds_attend", stats.attend_seconds},
          {"seconds_io", stats.io_seconds},
          {"seconds_io_wait", stats.io_wait_seconds},
          {"p50_ms", or_null(quantile_ms(row.decode_seconds, 0.5))},
          {"p99_ms", or_null(quantile_ms(row.decode_seconds, 0.99))},
          {"ttft_s", or_null(row.ttft_s)},
          {"seed", row.seed},
          {"isa", isa()},
          {"threads", row.threads},
          {"version", quire_version()},
          {"ppl", or_null(row.ppl)},
          {"ppl_ref", or_null(row.ppl_ref)},
          {"kld_mean", or_null(row.kld_mean)},
          {"kld_p999", or_null(row.kld_p999)},
          {"same_top1", or_null(row.same_top1)},
          {"selection", row.selection},
          {"sparse_prefill", row.sparse_prefill},
          {"missed_mass", or_null(row.missed_mass)},
          {"attended", or_null(row.attended)},
          {"seconds_select", stats.select_seconds},
          {"foreseen_sections", stats.foreseen_sections},
          {"foreseen_sections_used", stats.foreseen_sections_used},
          {"needles", or_null(row.needles)},
          {"needles_found", or_null(row.needles_found)},
          {"synthetic", row.synthetic}};
}

void write_rows(const std::filesystem::path& path, const json& options, const std::vector<Row>& rows) {
  if (path.empty()) return;
  json list = json::array();
  for (const Row& row : rows) list.push_back(to_json(row));
  std::ofstream out(path);
  out << json{{"options", options}, {"rows", list}}.dump(1) << '\n';
  out.close();
  if (!out) throw qwen3::Error("cannot write " + path.string() + "; give --json a file that can be written");
}

void print_table(const std::vector<Row>& rows) {
  std::vector<std::string> table(rows.size() + 1);
  for (const Column& column : columns(rows)) {
    std::vector<std::string> cells{column.title};
    for (const Row& row : rows) cells.push_back(column.cell(row));
    size_t width = 0;
    for (const std::string& cell : cells) width = std::max(width, cell.size());
    for (size_t i = 0; i < cells.size(); ++i) {
      table[i] += std::string(width - cells[i].size() + (table[i].empty() ? 0 : 2), ' ') + cells[i];
    }
  }
  for (const std::string& line : table) std::printf("%s\n", line.c_str());
}

}  // namespace quire::bench
