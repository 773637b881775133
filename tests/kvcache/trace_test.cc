#include "kvcache/trace.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace quire {
namespace {

class SteppedClock final : public Clock {
 public:
  Nanoseconds now() const override { return time; }
  Nanoseconds time{5'000'000'000};
};

// A directory of its own that goes away with the test.
class TraceFile : public testing::Test {
 protected:
  TraceFile() {
    std::string name = (std::filesystem::temp_directory_path() / "quire_trace_XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  ~TraceFile() override { std::filesystem::remove_all(directory_); }

  nlohmann::json written(const Trace& trace) {
    const std::string path = directory_ / "trace.json";
    const Status status = trace.write(path);
    EXPECT_TRUE(status.ok()) << status.message();
    std::ifstream file(path);
    return nlohmann::json::parse(file);
  }

  std::filesystem::path directory_;
};

TEST_F(TraceFile, SpansBecomeCompleteEvents) {
  SteppedClock clock;
  Trace trace(clock, 100);
  {
    const TraceSpan outer(&trace, "attend", TraceCategory::kCompute, 7, 40, 8);
    clock.time += Nanoseconds(1005);
    {
      const TraceSpan inner(&trace, "seal", TraceCategory::kEncode, 3);
      clock.time += Nanoseconds(1'234'567'042);
    }
    clock.time += Nanoseconds(1);
  }
  trace.record({"read", TraceCategory::kIo, Trace::kFirstFreeLane, clock.time, Nanoseconds(9), 1, 2, 3});

  const nlohmann::json events = written(trace)["traceEvents"];
  ASSERT_EQ(events.size(), 3U);
  const nlohmann::json inner = {
      {"name", "seal"},     {"cat", "encode"},
      {"ph", "X"},          {"pid", 1},
      {"tid", 0},           {"ts", 1.005},
      {"dur", 1234567.042}, {"args", {{"layer", 3}, {"first_page", 0}, {"count", 0}}}};
  EXPECT_EQ(events[0], inner);
  const nlohmann::json outer = {
      {"name", "attend"},   {"cat", "compute"},
      {"ph", "X"},          {"pid", 1},
      {"tid", 0},           {"ts", 0.0},
      {"dur", 1234568.048}, {"args", {{"layer", 7}, {"first_page", 40}, {"count", 8}}}};
  EXPECT_EQ(events[1], outer);
  EXPECT_EQ(events[2]["cat"], "io");
  EXPECT_EQ(events[2]["tid"], Trace::kFirstFreeLane);
  EXPECT_EQ(events[2]["dur"], 0.009);
}

TEST_F(TraceFile, WhatDoesNotFitIsCounted) {
  SteppedClock clock;
  Trace trace(clock, 10);
  for (int i = 0; i < 25; ++i) const TraceSpan span(&trace, "attend", TraceCategory::kCompute, 0);
  EXPECT_EQ(trace.size(), 10U);
  EXPECT_EQ(trace.dropped(), 15U);
  const nlohmann::json json = written(trace);
  EXPECT_EQ(json["traceEvents"].size(), 10U);
  EXPECT_EQ(json["otherData"]["dropped"], "15");
}

TEST_F(TraceFile, AnEmptyTraceIsValidJson) {
  const SteppedClock clock;
  const Trace trace(clock, 10);
  EXPECT_TRUE(written(trace)["traceEvents"].empty());
}

TEST_F(TraceFile, EveryThreadHasItsLane) {
  const SteadyClock clock;
  Trace trace(clock, 10000);
  constexpr int kThreads = 4;
  constexpr int kSpans = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&trace] {
      for (int i = 0; i < kSpans; ++i) const TraceSpan span(&trace, "attend", TraceCategory::kCompute, 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::map<int, int> spans_of_lane;
  const nlohmann::json json = written(trace);
  for (const nlohmann::json& event : json["traceEvents"]) {
    ++spans_of_lane[event["tid"].get<int>()];
    EXPECT_GE(event["ts"].get<double>(), 0.0);
    EXPECT_GE(event["dur"].get<double>(), 0.0);
  }
  EXPECT_EQ(spans_of_lane.size(), size_t{kThreads});
  for (const auto& [lane, spans] : spans_of_lane) EXPECT_EQ(spans, kSpans) << lane;
}

TEST_F(TraceFile, SaysWhichFileCannotBeWritten) {
  const SteppedClock clock;
  const Trace trace(clock, 10);
  const std::string path = directory_ / "missing" / "trace.json";
  const Status status = trace.write(path);
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
}

TEST(TraceSpan, WithoutATraceNothingHappens) {
  const TraceSpan span(nullptr, "attend", TraceCategory::kCompute, 0);
}

}  // namespace
}  // namespace quire
