#include "bench/live/panel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace quire::bench {
namespace {

constexpr int kBarWidth = 24;
constexpr double kMib = 1 << 20;

__attribute__((format(printf, 2, 3))) void add_text(std::string* out, const char* format, ...) {
  std::array<char, 160> line{};
  va_list values;
  va_start(values, format);
  std::vsnprintf(line.data(), line.size(), format, values);
  va_end(values);
  *out += line.data();
}

std::string bytes_text(double bytes) {
  std::string out;
  if (bytes < 1024 * kMib) {
    add_text(&out, "%.1f MiB", bytes / kMib);
  } else {
    add_text(&out, "%.1f GiB", bytes / kMib / 1024);
  }
  return out;
}

std::string time_text(double seconds) {
  std::string out;
  if (std::isinf(seconds)) {
    out = "long";
  } else if (seconds < 1) {
    add_text(&out, "%.2f ms", seconds * 1e3);
  } else {
    add_text(&out, "%.1f s", seconds);
  }
  return out;
}

std::string of_tier(const char* name, const char* tier) {
  return std::string("quire_tier_") + name + "{tier=\"" + tier + "\"}";
}

void add_tier(std::string* out, const Interval& interval, const char* tier, uint64_t budget) {
  if (budget == 0) return;
  const double bytes = metric(interval.now, of_tier("bytes", tier));
  const double share = std::clamp(bytes / static_cast<double>(budget), 0.0, 1.0);
  const std::string bar(static_cast<size_t>(std::lround(share * kBarWidth)), '#');
  add_text(out, "%-8s[%-*s] %10s of %10s  %10.0f pages\n", tier, kBarWidth, bar.c_str(),
           bytes_text(bytes).c_str(), bytes_text(static_cast<double>(budget)).c_str(),
           metric(interval.now, of_tier("pages", tier)));
}

void add_requests(std::string* out, const Interval& interval, const char* tier, const char* operation,
                  const char* bytes_name) {
  const Requests requests = requests_between(interval.before, interval.now, tier, operation);
  add_text(out, "%-4s %-9s %8.0f/s  p50 <= %9s  p99 <= %9s", tier, operation,
           requests.count / interval.seconds, time_text(requests.median).c_str(),
           time_text(requests.p99).c_str());
  if (bytes_name != nullptr) {
    const double bytes = metric(interval.now, bytes_name) - metric(interval.before, bytes_name);
    add_text(out, "  %10s/s", bytes_text(bytes / interval.seconds).c_str());
  }
  *out += '\n';
}

}  // namespace

std::string panel_text(const Interval& interval, const Budgets& budgets) {
  const auto grown = [&](const char* name) {
    return metric(interval.now, name) - metric(interval.before, name);
  };
  std::string out;
  add_text(&out, "%.0f tokens, %.2f bits per value\n", metric(interval.now, "quire_tokens"),
           metric(interval.now, "quire_effective_bits"));
  add_tier(&out, interval, "device", budgets.device);
  add_tier(&out, interval, "host", budgets.host);
  add_tier(&out, interval, "nvme", budgets.nvme);
  if (budgets.nvme > 0) {
    add_requests(&out, interval, "nvme", "read", "quire_read_bytes_total");
    add_requests(&out, interval, "nvme", "write", "quire_written_bytes_total");
  }
  const double hits = grown("quire_page_hits_total");
  const double misses = grown("quire_page_misses_total");
  add_text(&out, "pages attended %.0f/s, %.1f %% of them in memory; %.0f lost\n",
           (hits + misses) / interval.seconds, hits + misses > 0 ? 100 * hits / (hits + misses) : 100.0,
           metric(interval.now, "quire_pages_lost_total"));
  add_text(&out,
           "threads busy: encoding %.2f, attention %.2f; attention waits for reads %.0f %% of the time\n",
           grown("quire_encode_seconds_total") / interval.seconds,
           grown("quire_attend_seconds_total") / interval.seconds,
           100 * grown("quire_io_wait_seconds_total") / interval.seconds);
  return out;
}

}  // namespace quire::bench
