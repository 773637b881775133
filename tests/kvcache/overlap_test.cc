// Reading ahead, shown by the timestamps of the trace: pages of a layer are read while an earlier one is
// attended.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

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
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.host_budget = uint64_t{4} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 64;
  world.trace_path = path.string();
  auto engine = open_engine(world);
  ASSERT_NE(engine, nullptr);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, 3000, 60).status.ok());
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
  EXPECT_GT(overlapping, 0U);
  EXPECT_GT(ahead, 0U);
  std::printf("[overlap] %zu reads, %zu beside attention, %zu of them for the next layer\n", reads.size(),
              overlapping, ahead);
}

}  // namespace
}  // namespace quire::testing
