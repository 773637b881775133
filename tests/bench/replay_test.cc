// Replayed traces: the optimum against every possible choice, policies against what is known of them.
#include "bench/trace/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

namespace quire::bench {
namespace {

constexpr uint32_t kBytes = 100;

AccessEvent seal(uint32_t page) {
  return {.stream = 1, .kind = AccessKind::kSeal, .page = page, .bytes = kBytes};
}

AccessEvent use(uint64_t step, uint32_t page) {
  return {.stream = 1, .step = step, .kind = AccessKind::kUse, .page = page, .bytes = kBytes, .tokens = 1};
}

// Every page once per step.
AccessLog cyclic(uint32_t pages, uint64_t steps) {
  AccessLog log;
  for (uint32_t i = 0; i < pages; ++i) log.events.push_back(seal(i));
  for (uint64_t s = 1; s <= steps; ++s) {
    for (uint32_t i = 0; i < pages; ++i) log.events.push_back(use(s, i));
  }
  return log;
}

TEST(Replay, ACyclicScanIsWorstForLruAndBestForAFixedSet) {
  const AccessLog log = cyclic(100, 10);
  EXPECT_EQ(whole_bytes(log), 10000U);
  const ReplayCounts newest = replay(log, Eviction::kNewestFirst, 60 * kBytes);
  EXPECT_EQ(newest.uses, 1000U);
  EXPECT_EQ(newest.hits, 600U);
  EXPECT_EQ(newest.read_bytes, 400U * kBytes);
  EXPECT_EQ(newest.written_pages, 40U);
  // A fixed set is the optimum but for what the first round may still keep of the newest.
  const ReplayCounts best = replay(log, std::nullopt, 60 * kBytes);
  EXPECT_GE(best.hits, 600U);
  EXPECT_LE(replay(log, Eviction::kLru, 60 * kBytes).hits, 60U) << "only what the first round finds";
  EXPECT_GE(replay(log, Eviction::kFrequency, 60 * kBytes).hits, 540U) << "all rounds but the first";
  for (const EvictionName& policy : kEvictions) {
    if (policy.kind == Eviction::kAuto) continue;
    EXPECT_EQ(replay(log, policy.kind, 100 * kBytes).hits, 1000U) << policy.name << " with room for all";
    EXPECT_EQ(replay(log, policy.kind, 0).hits, 0U) << policy.name << " without room";
  }
}

// Most hits over every choice of who leaves, found by trying all.
uint64_t most_hits(const std::vector<uint32_t>& uses, size_t at, const std::set<uint32_t>& memory,
                   size_t room) {
  if (at == uses.size()) return 0;
  if (memory.contains(uses[at])) return 1 + most_hits(uses, at + 1, memory, room);
  uint64_t best = most_hits(uses, at + 1, memory, room);  // not kept
  if (memory.size() < room) {
    std::set<uint32_t> more = memory;
    more.insert(uses[at]);
    return std::max(best, most_hits(uses, at + 1, more, room));
  }
  for (const uint32_t victim : memory) {
    std::set<uint32_t> other = memory;
    other.erase(victim);
    other.insert(uses[at]);
    best = std::max(best, most_hits(uses, at + 1, other, room));
  }
  return best;
}

TEST(Replay, TheOptimumIsTheBestOfAllChoices) {
  uint64_t cases = 0;
  for (uint64_t seed = 0; seed < 60; ++seed, ++cases) {
    std::mt19937_64 random(seed);
    AccessLog log;
    std::vector<uint32_t> uses;
    // Pages whose place is freed at once start outside memory and on no disk: reads alone count.
    for (uint64_t s = 1; s <= 10; ++s) {
      uses.push_back(static_cast<uint32_t>(random() % 5));
      log.events.push_back(use(s, uses.back()));
    }
    const size_t room = 1 + random() % 3;
    const uint64_t truth = most_hits(uses, 0, {}, room);
    EXPECT_EQ(replay(log, std::nullopt, room * kBytes).hits, truth) << "seed " << seed;
    for (const EvictionName& policy : kEvictions) {
      if (policy.kind == Eviction::kAuto) continue;
      const ReplayCounts counts = replay(log, policy.kind, room * kBytes);
      EXPECT_LE(counts.hits, truth) << policy.name << " seed " << seed;
      EXPECT_EQ(counts, replay(log, policy.kind, room * kBytes)) << policy.name;
    }
  }
  std::printf("[counts] cases=%llu\n", static_cast<unsigned long long>(cases));
}

// A prompt's uses fill memory, and are not what the optimum saves.
TEST(Replay, TheOptimumIsOfDecodingAlone) {
  AccessLog log = cyclic(10, 1);
  for (AccessEvent& event : log.events) event.tokens = 64;
  for (uint64_t step = 2; step < 6; ++step) {
    for (const uint32_t page : {0U, 1U, 2U}) log.events.push_back(use(step, page));
  }
  const ReplayCounts best = replay(log, std::nullopt, 3 * kBytes);
  EXPECT_EQ(best.uses, 12U);
  EXPECT_EQ(best.hits, 12U);
}

// A run's event tells the bytes of its first page; those of the others are what they were sealed with.
TEST(Replay, PagesAreAsLargeAsTheyWereSealed) {
  AccessLog log;
  for (uint32_t i = 0; i < 4; ++i) {
    log.events.push_back(seal(i));
    if (i == 0) log.events.back().bytes = 2 * kBytes;
  }
  AccessEvent all = use(1, 0);
  all.wanted = 0b1111;
  all.bytes = 2 * kBytes;
  log.events.push_back(all);
  for (const Eviction policy : {Eviction::kNewestFirst, Eviction::kLru}) {
    EXPECT_EQ(replay(log, policy, 5 * kBytes).hits, 4U);
  }
  EXPECT_EQ(replay(log, std::nullopt, 5 * kBytes).hits, 4U);
  EXPECT_EQ(replay(log, std::nullopt, 0).read_bytes, 5 * kBytes);
}

TEST(Replay, ForesightCountsWhatComesAgain) {
  AccessLog log;
  const auto choose = [&](uint64_t step, uint16_t wanted, uint16_t guarded) {
    AccessEvent event = use(step, 0);
    event.wanted = wanted;
    event.guarded = guarded;
    event.has_mass = 1;
    log.events.push_back(event);
  };
  choose(1, 0b1111, 0b0001);
  choose(2, 0b0111, 0b0001);
  const Foresight foresight = foresee(log);
  EXPECT_EQ(foresight.foretold, 3U);
  EXPECT_EQ(foresight.chosen, 2U);
  EXPECT_EQ(foresight.both, 2U);
}

TEST(AccessTraceFile, ComesBackAndRefusesWhatIsNone) {
  const std::string path = ::testing::TempDir() + "quire_replay_test.trace";
  AccessTrace trace(3);
  trace.record(seal(7), {});
  const std::vector<float> mass{.25F, .5F};
  AccessEvent both = use(9, 3);
  both.wanted = 0b101;
  trace.record(both, mass);
  trace.record(use(10, 4), {});
  trace.record(use(11, 4), {});
  EXPECT_EQ(trace.dropped(), 1U);
  ASSERT_TRUE(trace.write(path).ok());
  const Result<AccessLog> log = read_access_log(path);
  ASSERT_TRUE(log.ok()) << log.status().message();
  ASSERT_EQ(log->events.size(), 3U);
  EXPECT_EQ(log->events[1].wanted, 0b101);
  EXPECT_EQ(log->masses, mass);
  uint64_t faults = 0;
  const auto bytes = std::filesystem::file_size(path);
  for (uint64_t length = 0; length < bytes; ++length, ++faults) {
    std::filesystem::resize_file(path, length);
    EXPECT_FALSE(read_access_log(path).ok()) << length;
    ASSERT_TRUE(trace.write(path).ok());
  }
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(32 + 24);
  file.put(9);  // a kind that there is not
  file.close();
  EXPECT_EQ(read_access_log(path).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(read_access_log("/nowhere/at/all").status().code(), StatusCode::kIo);
  EXPECT_EQ(trace.write("/nowhere/at/all").code(), StatusCode::kIo);
  std::filesystem::remove(path);
  std::printf("[counts] faults=%llu\n", static_cast<unsigned long long>(faults));
}

}  // namespace
}  // namespace quire::bench
