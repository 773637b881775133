#include "bench/micro/row.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

namespace quire::micro {
namespace {

// The processor's name as the system tells it.
std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

double gb_per_s(const Row& row) { return static_cast<double>(row.bytes) / row.seconds.median * 1e-9; }

// On a busy machine waiting for a core is no fault of the kernel.
std::optional<double> cpu_share(const Row& row) {
  if (row.cpu_seconds.median == 0) return std::nullopt;
  return std::max(row.read_cpu_seconds, row.mac_seconds) / row.cpu_seconds.median;
}

nlohmann::json or_null(std::optional<double> value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

std::string text_of(const char* format, std::optional<double> value) {
  if (!value) return "-";
  std::array<char, 32> text{};
  // The formats are those of line_of.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  std::snprintf(text.data(), text.size(), format, *value);
#pragma GCC diagnostic pop
  return text.data();
}

}  // namespace

Spread spread_of(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t last = values.size() - 1;
  return {values[last / 4], values[values.size() / 2], values[last - last / 4]};
}

nlohmann::json to_json(const Row& row) {
  static const std::string cpu = processor();
  return {{"case", row.name},
          {"k_codec", row.k_codec},
          {"v_codec", row.v_codec},
          {"key_space", row.key_space},
          {"group", row.group},
          {"n_q", row.n_q},
          {"n_kv", row.n_kv},
          {"threads", row.threads},
          {"isa", row.isa},
          {"rounds", row.rounds},
          {"seconds", row.seconds.median},
          {"seconds_p25", row.seconds.p25},
          {"seconds_p75", row.seconds.p75},
          {"cpu_seconds", row.cpu_seconds.median},
          {"bytes", row.bytes},
          {"macs", row.macs},
          {"gb_per_s", gb_per_s(row)},
          {"read_seconds", row.read_seconds},
          {"mac_seconds", row.mac_seconds},
          {"floor_seconds", row.floor_seconds},
          {"share", row.floor_seconds / row.seconds.median},
          {"share_p25", row.share.p25},
          {"share_p75", row.share.p75},
          {"cpu_share", or_null(cpu_share(row))},
          {"sampled", row.sampled},
          {"error", or_null(row.error)},
          {"cpu", cpu},
          {"version", QUIRE_VERSION}};
}

std::string headings() {
  return "case         K/V        space      isa     G   n_q    n_kv thr        ms   p25-p75       GB/s  "
         "bound "
         " share  share p25-p75  cpu share    error";
}

std::string line_of(const Row& row) {
  std::array<char, 256> text{};
  const std::string codecs = row.k_codec + "/" + row.v_codec;
  const bool by_macs = row.mac_seconds > row.read_seconds;
  std::snprintf(
      text.data(), text.size(),
      "%-12s %-10s %-10s %-7s %u %5llu %7llu  %2u %9.3f %5.0f%%-%4.0f%% %7.2f  %-5s  %5.3f    %5.3f-%5.3f"
      "     %6s  %7s",
      row.name.c_str(), codecs.c_str(), row.key_space.c_str(), row.isa.c_str(), row.group,
      static_cast<unsigned long long>(row.n_q), static_cast<unsigned long long>(row.n_kv), row.threads,
      row.seconds.median * 1e3, 100 * row.seconds.p25 / row.seconds.median,
      100 * row.seconds.p75 / row.seconds.median, gb_per_s(row), by_macs ? "dots" : "read",
      row.floor_seconds / row.seconds.median, row.share.p25, row.share.p75,
      text_of("%.3f", cpu_share(row)).c_str(), text_of("%.1e", row.error).c_str());
  return text.data();
}

}  // namespace quire::micro
