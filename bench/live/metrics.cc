#include "bench/live/metrics.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <vector>

namespace quire::bench {
namespace {

// "+Inf", too.
bool parse_number(std::string_view text, double* out) {
  if (text == "+Inf") {
    *out = std::numeric_limits<double>::infinity();
    return true;
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc{} && end == text.data() + text.size();
}

struct Bucket {
  double bound;
  double count;  // of requests that took at most that
};

double quantile(const std::vector<Bucket>& buckets, double share) {
  if (buckets.empty() || buckets.back().count <= 0) return 0;
  const double rank = share * buckets.back().count;
  const auto found = std::find_if(buckets.begin(), buckets.end(),
                                  [&](const Bucket& bucket) { return bucket.count >= rank; });
  return found == buckets.end() ? buckets.back().bound : found->bound;
}

}  // namespace

Metrics parse_metrics(std::string_view text) {
  Metrics out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t space = line.rfind(' ');
    double value = 0;
    if (line.starts_with('#') || space == std::string_view::npos) continue;
    if (parse_number(line.substr(space + 1), &value)) out.emplace(line.substr(0, space), value);
  }
  return out;
}

double metric(const Metrics& metrics, std::string_view name) {
  const auto found = metrics.find(name);
  return found == metrics.end() ? 0 : found->second;
}

Requests requests_between(const Metrics& before, const Metrics& now, std::string_view tier,
                          std::string_view operation) {
  const std::string prefix = "quire_request_seconds_bucket{tier=\"" + std::string(tier) + "\",operation=\"" +
                             std::string(operation) + "\",le=\"";
  std::vector<Bucket> buckets;
  for (auto i = now.lower_bound(prefix); i != now.end() && i->first.starts_with(prefix); ++i) {
    const std::string_view rest = std::string_view(i->first).substr(prefix.size());
    double bound = 0;
    if (parse_number(rest.substr(0, rest.find('"')), &bound)) {
      buckets.push_back({bound, i->second - metric(before, i->first)});
    }
  }
  std::sort(buckets.begin(), buckets.end(),
            [](const Bucket& a, const Bucket& b) { return a.bound < b.bound; });
  return {buckets.empty() ? 0 : buckets.back().count, quantile(buckets, .5), quantile(buckets, .99)};
}

}  // namespace quire::bench
