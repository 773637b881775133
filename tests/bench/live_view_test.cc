// The live view's numbers against texts that were added up by hand.
#include <gtest/gtest.h>

#include <limits>

#include "bench/live/panel.h"

namespace quire::bench {
namespace {

constexpr const char* kBefore = R"(# HELP quire_request_seconds How long requests to a tier take.
# TYPE quire_request_seconds histogram
quire_request_seconds_bucket{tier="nvme",operation="read",le="1e-04"} 10
quire_request_seconds_bucket{tier="nvme",operation="read",le="0.001"} 10
quire_request_seconds_bucket{tier="nvme",operation="read",le="0.01"} 10
quire_request_seconds_bucket{tier="nvme",operation="read",le="+Inf"} 10
quire_request_seconds_count{tier="nvme",operation="read"} 10
quire_read_bytes_total 1048576
quire_page_hits_total 100
)";

// Between the two: 100 reads, 60 of which took at most .1 ms, 38 more at most 1 ms, one more 10 ms, one
// longer.
constexpr const char* kNow = R"(quire_request_seconds_bucket{tier="nvme",operation="read",le="1e-04"} 70
quire_request_seconds_bucket{tier="nvme",operation="read",le="0.001"} 108
quire_request_seconds_bucket{tier="nvme",operation="read",le="0.01"} 109
quire_request_seconds_bucket{tier="nvme",operation="read",le="+Inf"} 110
quire_request_seconds_count{tier="nvme",operation="read"} 110
quire_read_bytes_total 22020096
quire_tokens 65536
quire_effective_bits 4.25
quire_tier_bytes{tier="host"} 12582912
quire_tier_pages{tier="host"} 96
quire_tier_bytes{tier="nvme"} 3221225472
quire_page_hits_total 250
quire_page_misses_total 50
quire_pages_lost_total 1
quire_attend_seconds_total 3
quire_io_wait_seconds_total 0.5)";

TEST(LiveViewTest, SamplesAreReadByNameAndLabels) {
  const Metrics metrics = parse_metrics(kNow);
  EXPECT_EQ(metrics.size(), 16u);
  EXPECT_EQ(metric(metrics, "quire_tier_bytes{tier=\"host\"}"), 12582912);
  EXPECT_EQ(metric(metrics, "quire_io_wait_seconds_total"), .5);
  EXPECT_EQ(metric(metrics, "quire_nothing"), 0);
  EXPECT_TRUE(parse_metrics("# HELP quire_a b 1\nquire_b\nquire_c x\n").empty());
}

TEST(LiveViewTest, RequestsAreThoseBetweenTwoLooks) {
  const Metrics before = parse_metrics(kBefore);
  const Metrics now = parse_metrics(kNow);
  const Requests requests = requests_between(before, now, "nvme", "read");
  EXPECT_EQ(requests.count, 100);
  EXPECT_EQ(requests.median, 1e-4);
  EXPECT_EQ(requests.p99, 1e-2);
  const Requests all = requests_between({}, now, "nvme", "read");
  EXPECT_EQ(all.count, 110);
  EXPECT_EQ(requests_between(before, before, "nvme", "read").p99, 0);
  EXPECT_EQ(requests_between(before, now, "nvme", "write").count, 0);
}

TEST(LiveViewTest, ThePanelShowsRatesAndShares) {
  const Interval interval{parse_metrics(kBefore), parse_metrics(kNow), 2};
  const std::string text = panel_text(interval, {0, 24 << 20, uint64_t{4} << 30});
  for (const char* part : {"65536 tokens, 4.25 bits per value\n",
                           "host    [############            ]   12.0 MiB of   24.0 MiB          96 pages\n",
                           "nvme    [##################      ]    3.0 GiB of    4.0 GiB           0 pages\n",
                           "nvme read            50/s  p50 <=   0.10 ms  p99 <=  10.00 ms    10.0 MiB/s\n",
                           "pages attended 100/s, 75.0 % of them in memory; 1 lost\n",
                           "encoding 0.00, attention 1.50; attention waits for reads 25 % of the time\n"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "is not in\n" << text;
  }
  EXPECT_EQ(text.find("device"), std::string::npos) << "there is no such tier";
}

}  // namespace
}  // namespace quire::bench
