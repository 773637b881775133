// quire_stats against what was done: every count and byte of a context that is larger than its memory.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <quire.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/bindings/plain_attention.h"

namespace {

constexpr uint32_t kLayers = 2, kQueryHeads = 4, kKvHeads = 2, kHeadDim = 64, kPageTokens = 64, kThreads = 2;
constexpr uint64_t kTokens = 3000, kStepTokens = 50, kPages = kTokens / kPageTokens * kLayers;
constexpr uint64_t kPageValues = uint64_t{2} * kPageTokens * kKvHeads * kHeadDim;

quire_options spilling_options() {
  quire_options options = quire::default_options();
  options.layers = kLayers;
  options.query_heads = kQueryHeads;
  options.kv_heads = kKvHeads;
  options.head_dim = kHeadDim;
  options.page_tokens = kPageTokens;
  options.key_codec = options.value_codec = QUIRE_CODEC_BF16;
  options.max_step_tokens = kStepTokens;
  options.threads = kThreads;
  options.host_budget = 4 << 20;
  options.nvme_budget = 64 << 20;
  options.nvme_path = "/tmp";
  return options;
}

void read_text(quire::Cache& cache, const quire::Sequence& sequence) {
  std::vector<float> rows(kStepTokens * kQueryHeads * kHeadDim);
  std::vector<float> out(rows.size());
  for (uint64_t first = 0; first < kTokens; first += kStepTokens) {
    plain_random(first, rows.data(), rows.size());
    quire::Step step = cache.begin({{sequence, first, kStepTokens}});
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      step.append(layer, quire::input(rows.data()), quire::input(rows.data()));
      step.attend(layer, quire::input(rows.data()), quire::output(out.data()));
      ASSERT_EQ(step.wait(), quire::Outcome::kDone);
    }
    step.end();
  }
}

TEST(Stats, CountWhatWasHeldAndMoved) {
  const quire_options options = spilling_options();
  quire::Cache cache(options);
  quire::Sequence sequence = cache.create_sequence();
  const auto start = std::chrono::steady_clock::now();
  ASSERT_NO_FATAL_FAILURE(read_text(cache, sequence));
  const quire_stats held = cache.stats();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  EXPECT_EQ(held.tokens, kTokens);
  EXPECT_EQ(held.values, 2 * kTokens * kKvHeads * kHeadDim * kLayers);
  EXPECT_EQ(held.pages, kPages);
  EXPECT_EQ(held.pages_lost, 0U);
  EXPECT_EQ(held.device_bytes + held.device_pages, 0U);

  // A page of bf16 and its share of a header and checksums, rounded to 64 bytes per section.
  const auto page_bytes = static_cast<uint64_t>(held.page_bits * kPageValues / 8 + 0.5);
  EXPECT_GT(page_bytes, kPageValues * 2);
  EXPECT_LT(page_bytes, kPageValues * 2 + 1024);
  EXPECT_EQ(held.nvme_bytes, held.nvme_pages * page_bytes);
  EXPECT_GE(held.host_page_bytes, held.host_pages * page_bytes);
  EXPECT_GE(held.host_pages + held.nvme_pages, kPages);
  EXPECT_GE(held.nvme_file_bytes, held.nvme_bytes);
  EXPECT_LE(held.nvme_file_bytes, options.nvme_budget);
  EXPECT_EQ(held.host_bytes,
            held.host_page_bytes + held.host_tail_bytes + held.host_table_bytes + held.host_staging_bytes);
  EXPECT_LE(held.host_bytes, options.host_budget);
  const auto all_bytes = kPages * page_bytes + held.host_tail_bytes + held.host_table_bytes;
  EXPECT_NEAR(held.effective_bits, static_cast<double>(all_bytes) * 8 / static_cast<double>(held.values),
              1e-9);

  EXPECT_GT(held.dropped_pages, 0U) << "the context must not fit into memory";
  EXPECT_GE(held.demoted_pages, held.nvme_pages);
  EXPECT_GE(held.written_bytes, held.demoted_pages * page_bytes);
  EXPECT_GT(held.page_hits, 0U);
  EXPECT_GT(held.page_misses, 0U);
  EXPECT_GE(held.read_bytes, page_bytes);
  EXPECT_LE(held.promoted_pages, held.page_misses);
  EXPECT_EQ(held.partial_pages, 0U) << "nothing was selected";
  // Pages are held to be attended, and some that were held ahead go unused.
  EXPECT_GT(held.host_attended_pages, 0U);
  EXPECT_LE(held.host_attended_pages, held.page_hits + held.page_misses);
  EXPECT_EQ(held.host_attended_bytes, held.host_attended_pages * page_bytes);
  EXPECT_EQ(held.device_attended_pages + held.carried_pages, 0U) << "there is no GPU";
  for (const double busy : {held.encode_seconds, held.attend_seconds}) {
    EXPECT_GT(busy, 0);
    EXPECT_LE(busy, wall * (kThreads + 1));
  }
  EXPECT_GT(held.io_seconds, 0);
  EXPECT_LE(held.io_seconds, wall);
  EXPECT_LE(held.io_wait_seconds, wall);

  cache.flush();
  EXPECT_EQ(cache.stats().nvme_pages, kPages);
}

// While pages are written, by a thread of the cache's own.
TEST(Stats, NoMoreIsDemotedThanIsWritten) {
  quire::Cache cache(spilling_options());
  quire::Sequence sequence = cache.create_sequence();
  std::atomic<bool> done{false};
  std::thread reader([&] {
    read_text(cache, sequence);
    done = true;
  });
  while (!done) {
    const quire_stats held = cache.stats();
    EXPECT_GE(held.written_bytes, held.demoted_bytes);
    EXPECT_GE(held.demoted_pages, held.nvme_pages);
  }
  reader.join();
  EXPECT_GT(cache.stats().demoted_bytes, 0U);
}

// Pages are sealed on the device and go down by way of host memory; a page may be in all three places.
TEST(Stats, CountEveryTier) {
  quire_options options = spilling_options();
  options.device_budget = 1 << 20;
  quire::Cache cache(options);
  quire::Sequence sequence = cache.create_sequence();
  ASSERT_NO_FATAL_FAILURE(read_text(cache, sequence));
  const quire_stats held = cache.stats();
  EXPECT_EQ(held.pages, kPages);
  EXPECT_GT(held.device_pages, 0U);
  EXPECT_LE(held.device_bytes, options.device_budget);
  EXPECT_LE(held.host_bytes, options.host_budget);
  EXPECT_GT(held.nvme_pages, 0U);
  EXPECT_GE(held.device_pages + held.host_pages + held.nvme_pages, kPages);
}

// Forks share pages, which count once; each has a tail of its own.
TEST(Stats, SharedPagesCountOnce) {
  quire_options options = spilling_options();
  options.host_budget = 64 << 20;
  options.nvme_budget = 0;
  quire::Cache cache(options);
  quire::Sequence sequence = cache.create_sequence();
  ASSERT_NO_FATAL_FAILURE(read_text(cache, sequence));
  const quire_stats alone = cache.stats();
  const quire::Sequence fork = sequence.fork();
  const quire_stats both = cache.stats();
  EXPECT_STREQ(both.io_engine, "none");
  EXPECT_EQ(both.pages, alone.pages);
  EXPECT_EQ(both.host_page_bytes, alone.host_page_bytes);
  EXPECT_EQ(both.host_tail_bytes, 2 * alone.host_tail_bytes);
  const uint64_t tail_tokens = kTokens % kPageTokens;
  EXPECT_EQ(both.tokens, alone.tokens + tail_tokens);
  EXPECT_EQ(both.values, alone.values + 2 * tail_tokens * kKvHeads * kHeadDim * kLayers);
}

// The value of a line of Prometheus text, or -1.
double sample(const std::string& text, const std::string& name) {
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + name.size() + 2, nullptr);
}

TEST(Prometheus, SaysWhatTheStatsSayAndCountsEveryRequest) {
  quire::Cache cache(spilling_options());
  quire::Sequence sequence = cache.create_sequence();
  ASSERT_NO_FATAL_FAILURE(read_text(cache, sequence));
  cache.flush();
  const std::string text = cache.prometheus();
  const quire_stats stats = cache.stats();
  EXPECT_EQ(sample(text, "quire_tokens"), static_cast<double>(stats.tokens));
  EXPECT_EQ(sample(text, "quire_tier_pages{tier=\"nvme\"}"), static_cast<double>(stats.nvme_pages));
  EXPECT_EQ(sample(text, "quire_demoted_bytes_total"), static_cast<double>(stats.demoted_bytes));
  EXPECT_GT(stats.host_attended_pages, 0U);
  EXPECT_EQ(sample(text, "quire_attended_pages_total{place=\"host\"}"),
            static_cast<double>(stats.host_attended_pages));
  EXPECT_EQ(sample(text, "quire_attended_bytes_total{place=\"host\"}"),
            static_cast<double>(stats.host_attended_bytes));
  EXPECT_EQ(sample(text, "quire_attended_pages_total{place=\"carried\"}"), 0);
  const std::string writes = "{tier=\"nvme\",operation=\"write\"";
  const double count = sample(text, "quire_request_seconds_count" + writes + "}");
  EXPECT_GT(count, 0);
  EXPECT_EQ(sample(text, "quire_request_seconds_bucket" + writes + ",le=\"+Inf\"}"), count);
  EXPECT_GT(sample(text, "quire_request_seconds_sum" + writes + "}"), 0);
  EXPECT_GT(sample(text, "quire_request_seconds_count{tier=\"nvme\",operation=\"read\"}"), 0);
}

TEST(Prometheus, SaysHowMuchRoomItNeeds) {
  const quire_options options = spilling_options();
  quire_cache* cache = nullptr;
  ASSERT_EQ(quire_open(&options, &cache), QUIRE_OK);
  uint64_t length = 0;
  EXPECT_EQ(quire_cache_prometheus(cache, nullptr, 0, &length), QUIRE_INVALID);
  ASSERT_GT(length, 1000U);
  std::string text(length + 1, 'x');
  EXPECT_EQ(quire_cache_prometheus(cache, text.data(), length, &length), QUIRE_INVALID);
  EXPECT_EQ(quire_cache_prometheus(cache, text.data(), length + 1, &length), QUIRE_OK);
  EXPECT_EQ(text.back(), 0);
  EXPECT_EQ(quire_cache_prometheus(cache, nullptr, 9, &length), QUIRE_INVALID);
  EXPECT_EQ(quire_cache_prometheus(cache, text.data(), length + 1, nullptr), QUIRE_INVALID);
  EXPECT_EQ(quire_close(cache), QUIRE_OK);
}

}  // namespace
