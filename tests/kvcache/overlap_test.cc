// Reading ahead: pages of a layer are read while an earlier one is attended, shown by the timestamps of the
// trace, or when the engine asks for them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

struct Span {
  double begin;
  double end;
  int layer;
};

std::vector<Span> spans(const nlohmann::json& trace, const std::string& name) {
  std::vector<Span> out;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.value("name", "") != name) continue;
    const double begin = event.at("ts").get<double>();
    out.push_back({begin, begin + event.at("dur").get<double>(), event.at("args").at("layer").get<int>()});
  }
  return out;
}

TEST(Overlap, PagesOfTheNextLayerAreReadWhileThisOneIsAttended) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("quire-overlap-" + std::to_string(getpid()) + ".json");
  World world;
  world.layers = 4;
  world.query_heads = 16;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.host_budget = uint64_t{6} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 256;
  world.trace_path = path.string();
  auto engine = open_engine(world);
  ASSERT_NE(engine, nullptr);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, 2500, 250).status.ok());
  ASSERT_GT(engine->mover()->tier_stats().read_bytes, 0U);
  ASSERT_TRUE(engine->close().ok());

  std::ifstream in(path);
  const nlohmann::json trace = nlohmann::json::parse(in);
  std::filesystem::remove(path);
  const std::vector<Span> reads = spans(trace, "read");
  const std::vector<Span> attends = spans(trace, "attend");
  ASSERT_FALSE(reads.empty());
  ASSERT_FALSE(attends.empty());
  size_t overlapping = 0;
  size_t ahead = 0;
  for (const Span& read : reads) {
    bool any = false;
    bool other_layer = false;
    for (const Span& attend : attends) {
      if (read.begin >= attend.end || attend.begin >= read.end) continue;
      any = true;
      other_layer = other_layer || read.layer == (attend.layer + 1) % 4;
    }
    overlapping += any ? 1 : 0;
    ahead += other_layer ? 1 : 0;
  }
  // Most do; a busy machine may be late with some.
  EXPECT_GT(overlapping, reads.size() / 4);
  EXPECT_GT(ahead, reads.size() / 16);
  std::printf("[overlap] %zu reads, %zu beside attention, %zu of them for the next layer\n", reads.size(),
              overlapping, ahead);
}

bool reads_more_than(Engine& engine, uint64_t bytes) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (engine.mover()->tier_stats().read_bytes <= bytes) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

struct PageCounts {
  uint64_t on_disk = 0;     // and not in memory
  uint64_t on_the_way = 0;  // of them, being read or read ahead
};

PageCounts count_pages(Engine& engine, const Sequence& sequence, uint32_t layer) {
  const ResidencyLock lock = engine.residency().lock();
  PageCounts counts;
  for (const Page* page : sequence.layers[layer].table->pages) {
    counts.on_disk += page->memory() == nullptr ? 1 : 0;
    counts.on_the_way += page->memory() == nullptr && page->pins > 0 ? 1 : 0;
  }
  return counts;
}

// The first token of a layer that lies on disk alone, of the sequence's second half: which pages the mover
// has chosen depends on when it came to it.
uint64_t late_token_on_disk(Engine& engine, const World& world, const Sequence& sequence, uint32_t layer) {
  const ResidencyLock lock = engine.residency().lock();
  const std::vector<Page*>& pages = sequence.layers[layer].table->pages;
  size_t i = pages.size() / 2;
  while (i + 1 < pages.size() && pages[i]->memory() != nullptr) ++i;
  return i * world.page_tokens;
}

// Two layers, and within them pages that are not the first to be attended.
TEST(Prefetch, IsReadBeforeItIsAttendedAndNotAgain) {
  World world;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.max_step_tokens = 64;
  constexpr uint64_t kTokens = 2940;
  const auto roomy = open_engine(world);
  Sequence* expected = *roomy->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*roomy, world, expected, 0, kTokens, 60).status.ok());
  world.host_budget = uint64_t{5} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  const auto engine = open_engine(world);
  ASSERT_NE(engine, nullptr);
  Cache& cache = engine->cache();
  Sequence* sequence = *cache.create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kTokens, 60).status.ok());
  // Freeing any sequence gives back what the last step read ahead.
  ASSERT_TRUE(cache.free(*cache.create_sequence()).ok());

  // Pages that have to be read are counted when their reads begin.
  const auto misses = [&] { return engine->counters().page_misses.load(); };
  const uint64_t read = engine->mover()->tier_stats().read_bytes;
  const uint64_t on_disk =
      count_pages(*engine, *sequence, 0).on_disk + count_pages(*engine, *sequence, 1).on_disk;
  const uint64_t at_first = misses();
  const uint64_t begin = late_token_on_disk(*engine, world, *sequence, 0);
  const uint64_t other_begin = late_token_on_disk(*engine, world, *sequence, 1);
  // Memory for reading may still be in the hands of reads that were given back.
  const auto prefetch_as_there_is_room = [&](uint32_t layer, uint64_t first_token) {
    const uint64_t before = misses();
    for (int i = 0; i < 20000 && misses() == before; ++i) {
      if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_TRUE(cache.prefetch(sequence, layer, first_token, 100).ok());
    }
  };
  prefetch_as_there_is_room(0, begin);
  const uint64_t after_one = misses();
  prefetch_as_there_is_room(1, other_begin);
  const uint64_t after_both = misses();
  ASSERT_TRUE(cache.prefetch(sequence, 0, begin, 50).ok());
  EXPECT_GT(after_one, at_first);
  EXPECT_GT(after_both, after_one);
  EXPECT_EQ(misses(), after_both) << "it is on its way already";
  EXPECT_TRUE(reads_more_than(*engine, read)) << "reads begin before anything is attended";

  const Output output = run_step(*engine, world, sequence, kTokens, 1);
  ASSERT_TRUE(output.status.ok()) << output.status.message();
  EXPECT_EQ(output.out, run_step(*roomy, world, expected, kTokens, 1).out);
  // Every page was read once, and some of the first layer ahead for the next step.
  EXPECT_EQ(misses() - at_first, on_disk + count_pages(*engine, *sequence, 0).on_the_way);
}

// A step's last layer has begun to read the first one's pages for the next step, which come to another rope.
TEST(Prefetch, PagesOfAnotherRopeAreMissedHoweverEarlyTheyWereRead) {
  World world;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.max_step_tokens = 64;
  world.host_budget = uint64_t{5} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  const auto engine = open_engine(world);
  ASSERT_NE(engine, nullptr);
  Sequence* sequence = *engine->cache().create_sequence();
  Rope rope = test_rope(world);
  ASSERT_TRUE(engine->cache().set_rope(sequence, rope).ok());
  constexpr uint64_t kTokens = 2940;
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kTokens, 60).status.ok());
  ASSERT_TRUE(engine->cache().prefetch(sequence, 0, 0, kTokens).ok());
  ++rope.epoch;
  ASSERT_TRUE(engine->cache().set_rope(sequence, rope).ok());
  ASSERT_TRUE(run_step(*engine, world, sequence, kTokens, 1).status.ok());
  uint64_t old_pages = 0;
  for (const SequenceLayer& layer : sequence->layers) {
    for (const Page* page : layer.table->pages) old_pages += page->rope_epoch == rope.epoch ? 0 : 1;
  }
  EXPECT_EQ(old_pages, 0U) << "attended as if they were of the new rope";
}

// A device is given what is there from where it was put for it, so there must be one place.
TEST(Prefetch, WhatCameBeforeItWasWantedStandsInOnePlace) {
  World world;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.max_step_tokens = 64;
  world.host_budget = uint64_t{5} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  const auto engine = open_engine(world);
  ASSERT_NE(engine, nullptr);
  Cache& cache = engine->cache();
  Sequence* sequence = *cache.create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, 2940, 60).status.ok());
  ASSERT_TRUE(cache.free(*cache.create_sequence()).ok());  // gives back what the last step read ahead
  const auto page =
      static_cast<uint32_t>(late_token_on_disk(*engine, world, *sequence, 0) / world.page_tokens);
  const Status status = cache.run([&]() -> Status {
    Residency& residency = engine->residency();
    const PageTable* table = sequence->layers[0].table;
    HeldRun early;
    HeldRun run;
    EXPECT_EQ(preload_run(residency, table, page, 1, 1, {}, sequence->rope.epoch, &early), Acquire::kHeld);
    EXPECT_NE(early.loading, 0U);
    const HeadMask wanted = head_bit(1);
    EXPECT_EQ(acquire_run(residency, table, page, 1, 1, {&wanted, 1}, sequence->rope.epoch, &early, &run),
              Acquire::kHeld);
    EXPECT_NE(run.early_heads[0], 0U);
    ready_run(residency, &run);
    EXPECT_NE(run.bytes[0], nullptr);
    EXPECT_EQ(run.early_heads[0], 0U);
    release_run(residency, &run);
    return {};
  });
  EXPECT_TRUE(status.ok()) << status.message();
}

// A choice takes of what was prefetched what it wants, and a guess of the choice leaves it there.
TEST(Prefetch, PagesThatAreChosenAreCountedOnce) {
  World world;
  world.digests = true;
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.max_step_tokens = 64;
  world.eviction = Eviction::kNewestFirst;  // what is read does not stay
  world.selection.kind = SelectionKind::kTopPages;
  world.selection.pages = 1000;
  world.nvme_budget = uint64_t{64} << 20;
  for (const auto& [host_mib, guess] : {std::pair{5, false}, {64, false}, {5, true}}) {
    world.host_budget = static_cast<uint64_t>(host_mib) << 20;
    world.guess.reset();
    const auto engine = open_engine(world);
    ASSERT_NE(engine, nullptr);
    Sequence* sequence = *engine->cache().create_sequence();
    constexpr uint64_t kTokens = 2400;
    ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kTokens, 60).status.ok());
    const CacheCounters& counters = engine->counters();
    const uint64_t hits = counters.page_hits.load();
    const uint64_t misses = counters.page_misses.load();
    const uint64_t attended = counters.host_attended_pages.load();
    ASSERT_TRUE(engine->cache().prefetch(sequence, 0, 0, kTokens).ok());
    if (guess) world.guess = {world.selection, 0};
    ASSERT_TRUE(run_step(*engine, world, sequence, kTokens, 1).status.ok());
    EXPECT_EQ(counters.page_misses.load() > misses, host_mib == 5);
    EXPECT_EQ(counters.page_hits.load() - hits + counters.page_misses.load() - misses,
              counters.host_attended_pages.load() - attended);
  }
}

}  // namespace
}  // namespace quire::testing
