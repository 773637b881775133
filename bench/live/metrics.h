// The numbers of a Prometheus text (version 0.0.4) by name and labels, as it writes them.
// Thread safety: plain data.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace quire::bench {

// "quire_tier_bytes{tier=\"host\"}" -> value.
using Metrics = std::map<std::string, double, std::less<>>;

// Lines that are no sample are passed over.
Metrics parse_metrics(std::string_view text);

// 0 where there is none of that name.
double metric(const Metrics& metrics, std::string_view name);

// Of the requests between two texts, `before` the earlier one: how many, and the bound in seconds of the
// bucket that holds the quantile (0 when there were none, infinity in the last bucket).
struct Requests {
  double count = 0;
  double median = 0;
  double p99 = 0;
};
Requests requests_between(const Metrics& before, const Metrics& now, std::string_view tier,
                          std::string_view operation);

}  // namespace quire::bench
