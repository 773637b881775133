// The smallest host budget that opens is one to work with: whole steps, and the recovery of every page at
// once, give the bits of a roomy cache.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

// A budget that opens although 4 KiB less does not.
uint64_t smallest_host_budget(World world) {
  const auto opens = [&](uint64_t blocks) {
    world.host_budget = blocks << 12;
    return Engine::open(engine_options(world)).ok();
  };
  uint64_t refused = 0;
  uint64_t opened = uint64_t{1} << 14;
  while (opened - refused > 1) {
    const uint64_t middle = refused + (opened - refused) / 2;
    (opens(middle) ? opened : refused) = middle;
  }
  return opened << 12;
}

// One sequence of made-up values, and what an engine does for its user when pages are lost: older tokens run
// again through the layers below, page by page, inside the step that missed them.
class Reader {
 public:
  Reader(Engine& engine, const World& world)
      : engine_(engine), world_(world), sequence_(*engine.cache().create_sequence()) {}

  Output read(uint64_t first, uint64_t count) {
    Output output;
    output.out.resize(world_.layers);
    output.lse.resize(world_.layers);
    output.status = run(first, count, world_.layers, &output);
    return output;
  }
  void lose_every_page() {
    ASSERT_TRUE(engine_.cache().flush().ok());
    // Freeing any sequence gives back what is loaded ahead.
    ASSERT_TRUE(engine_.cache().free(*engine_.cache().create_sequence()).ok());
    Residency& residency = engine_.residency();
    ResidencyLock lock = residency.lock();
    for (const SequenceLayer& layer : sequence_->layers) {
      for (Page* page : layer.table->pages) {
        ASSERT_EQ(page->pins, 0U);
        for (const MemoryTier tier : kMemoryTiers) residency.drop_slot(lock, page, tier);
        residency.drop_place(lock, page);
        ASSERT_TRUE(page->lost());
      }
    }
  }
  uint64_t refilled() const { return refilled_; }

 private:
  // A step over the first `layers`. Rows go to output, if there is one.
  Status run(uint64_t first, uint64_t count, uint32_t layers, Output* output) {
    const StepRequest request{sequence_, first, count};
    Result<std::unique_ptr<OpenStep>> step = engine_.cache().begin({&request, 1});
    Status status = step.status();
    for (uint32_t layer = 0; layer < layers && status.ok(); ++layer) {
      status = run_layer(step->get(), layer, first, count, output);
    }
    if (!step.ok()) return status;
    const Status end = engine_.cache().end(step->get());
    return status.ok() ? end : status;
  }

  Status run_layer(OpenStep* step, uint32_t layer, uint64_t first, uint64_t count, Output* output) {
    const std::vector<float> keys = rows(world_, Row::kKey, layer, first, count);
    const std::vector<float> values = rows(world_, Row::kValue, layer, first, count);
    const std::vector<float> queries = rows(world_, Row::kQuery, layer, first, count);
    Status status = engine_.cache().append(step, layer, kv(keys), kv(values));
    if (!status.ok()) return status;
    std::vector<float> out(count * world_.query_row());
    const TensorView q = view(queries, world_.head_dim, world_.query_heads);
    // A replay starts `recent_pages` early; the rows of those pages lack their own recent ones.
    std::vector<uint8_t> wanted(count, 1);
    if (output == nullptr) std::fill(wanted.begin(), wanted.end() - world_.page_tokens, uint8_t{0});
    const AttendArgs args{1.0F / std::sqrt(static_cast<float>(world_.head_dim)),
                          q,
                          {out.data(), DType::kF32, q.token_stride, q.head_stride},
                          0,
                          nullptr,
                          wanted.data()};
    for (uint64_t attempt = 0; attempt < 1000; ++attempt) {
      status = engine_.cache().attend(step, layer, args);
      if (status.ok()) status = engine_.cache().wait(step);
      if (status.code() != StatusCode::kMiss) break;
      status = recover(engine_.cache().miss(step));
      if (!status.ok()) return status;
    }
    if (output != nullptr) output->out[layer] = std::move(out);
    return status;
  }

  Status recover(const Miss& miss) {
    const uint64_t tokens = world_.page_tokens;
    for (uint64_t first = miss.first; first < miss.first + miss.count; first += tokens) {
      const uint64_t start = first - std::min(first, world_.recent_pages * tokens);
      const bool replays = world_.max_step_tokens >= first + tokens - start && miss.layer > 0;
      if (replays) {
        const Status status = run(start, first + tokens - start, miss.layer, nullptr);
        if (!status.ok()) return status;
      }
      const std::vector<float> keys = rows(world_, Row::kKey, miss.layer, first, tokens);
      const std::vector<float> values = rows(world_, Row::kValue, miss.layer, first, tokens);
      const Status status =
          engine_.cache().refill(miss.sequence, miss.layer, first, tokens, kv(keys), kv(values));
      if (!status.ok()) return status;
      ++refilled_;
    }
    return {};
  }

  TensorView kv(const std::vector<float>& rows) const { return view(rows, world_.head_dim, world_.kv_heads); }

  Engine& engine_;
  const World& world_;
  Sequence* sequence_;
  uint64_t refilled_ = 0;
};

struct Case {
  const char* name;
  CodecId codec;
  uint32_t layers;
  uint32_t page_tokens;
  uint32_t recent_pages;
  uint32_t max_step_tokens;
  bool device;
};

class TightBudget : public ::testing::TestWithParam<Case> {};

TEST_P(TightBudget, TheSmallestThatOpensCanRecoverEveryPage) {
  const Case& c = GetParam();
  World world;
  world.layers = c.layers;
  world.page_tokens = c.page_tokens;
  world.recent_pages = c.recent_pages;
  world.max_step_tokens = c.max_step_tokens;
  world.key_codec = world.value_codec = c.codec;
  world.nvme_budget = uint64_t{64} << 20;
  const auto roomy = open_engine(world);
  Reader reference(*roomy, world);

  world.device_budget = c.device ? uint64_t{64} << 10 : 0;
  world.host_budget = smallest_host_budget(world);
  const auto engine = open_engine(world);
  ASSERT_NE(engine, nullptr);
  Reader reader(*engine, world);

  const uint64_t steps = 40 * c.page_tokens / c.max_step_tokens;
  uint64_t length = 1;  // steps do not start where pages do
  ASSERT_TRUE(reference.read(0, 1).status.ok());
  ASSERT_TRUE(reader.read(0, 1).status.ok());
  for (uint64_t step = 0; step < steps; ++step, length += c.max_step_tokens) {
    if (step == steps / 2 || step + 1 == steps) reader.lose_every_page();
    const Output expected = reference.read(length, c.max_step_tokens);
    const Output output = reader.read(length, c.max_step_tokens);
    ASSERT_TRUE(expected.status.ok()) << expected.status.message();
    ASSERT_TRUE(output.status.ok()) << output.status.message() << " at token " << length;
    ASSERT_EQ(output.out, expected.out) << "at token " << length;
  }
  EXPECT_EQ(reference.refilled(), 0U);
  EXPECT_GE(reader.refilled(), uint64_t{c.layers} * (length / 2 / c.page_tokens));
  EXPECT_GT(engine->mover()->counts().dropped_pages.load(), 0U) << "memory must have been short";
  EXPECT_LE(engine->host_budget().peak(), world.host_budget);
  std::printf("[counts] cases=1 faults=%llu\n", static_cast<unsigned long long>(reader.refilled()));
}

INSTANTIATE_TEST_SUITE_P(Worlds, TightBudget,
                         ::testing::Values(Case{"Int8LargeSteps", CodecId::kInt8, 4, 64, 0, 256, false},
                                           Case{"Rot4LargePages", CodecId::kRot4, 3, 128, 0, 128, false},
                                           Case{"Bf16RecentPages", CodecId::kBf16, 3, 32, 2, 100, false},
                                           Case{"Bf16OnADevice", CodecId::kBf16, 2, 32, 0, 64, true},
                                           Case{"Rot3SingleTokens", CodecId::kRot3, 2, 32, 0, 1, false}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace quire::testing
