// Generations that start behind a store whose disk fails in every way there is: tokens and logits have the
// very bits of a clean run, because what the store cannot prove is computed again.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "bench/qwen3/error.h"
#include "bench/qwen3/fingerprint.h"
#include "bench/qwen3/json_file.h"
#include "bench/qwen3/reading.h"
#include "bindings/c/api.h"
#include "bindings/c/options.h"
#include "tests/bench/test_files.h"
#include "tests/offload/faulty_engine.h"
#include "tests/support/temporary_store.h"

namespace quire::qwen3 {
namespace {

using testing::Fault;
using testing::FaultPlan;
using testing::TemporaryStore;

constexpr size_t kText = 700;  // ten whole pages and some
constexpr uint64_t kHeld = 640;

const Model& tiny() {
  static const Model model = load_model(tiny_model());
  return model;
}

const std::vector<int32_t>& text() {
  static const std::vector<int32_t> end = [] {
    const std::vector<int32_t> ids = tiny().tokenizer.encode(read_text(tiny_model() / "text_end.txt"));
    return std::vector<int32_t>(ids.end() - static_cast<int64_t>(kText), ids.end());
  }();
  return end;
}

CacheOptions with_store(const std::string& path) {
  CacheOptions options;
  options.host_budget = 32 << 20;
  options.chunk_tokens = 256;
  options.store_path = path;
  options.store_budget = 4 << 20;
  options.fingerprint = model_fingerprint(tiny(), options.prefill, options.select);
  return options;
}

// Opens caches whose store's disk fails by `plan`.
OpenCache open_over(std::shared_ptr<FaultPlan> plan) {
  return [plan = std::move(plan)](const quire_options* options, quire_cache** out) {
    return capi::guarded(0, [&]() -> Status {
      Result<EngineOptions> engine_options = quire::engine_options(*options);
      if (!engine_options.ok()) return engine_options.status();
      engine_options->open_store_io = testing::faulty_engine_factory(plan);
      Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(*engine_options));
      if (!engine.ok()) return engine.status();
      *out = capi::adopt(std::move(*engine));
      return {};
    });
  };
}

struct Generation {
  uint64_t adopted = 0;
  bool publish_failed = false;
  std::vector<float> logits;  // of the last token of the text, and of four more that follow it greedily
};

// One process's life: adopts, reads the rest, writes four tokens, publishes.
Generation generate(const CacheOptions& options, const OpenCache& open) {
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool);
  Cache cache(geometry_of(tiny()), options, pool, open);
  Session session(decoder, cache, kText + 8);
  Generation out;
  if (!options.store_path.empty()) out.adopted = session.adopt(text(), {});
  const auto add = [&](uint64_t, std::span<const float> row) {
    out.logits.insert(out.logits.end(), row.begin(), row.end());
  };
  read_rest(session, text(), {add, 1, {}});
  const size_t vocab = out.logits.size();
  for (int i = 0; i < 4; ++i) {
    const std::span<const float> last = std::span(out.logits).last(vocab);
    const auto next = static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
    add(0, session.read({&next, 1}, 1));
  }
  if (options.store_path.empty()) return out;
  try {
    session.publish({});
  } catch (const Error&) {
    out.publish_failed = true;
  }
  return out;
}

const Generation& clean() {
  static const Generation generation = [] {
    CacheOptions options = with_store("");
    options.store_path.clear();
    return generate(options, quire_open);
  }();
  return generation;
}

struct FaultCase {
  Fault fault;
  IoKind kind;
};

class FaultyStore : public ::testing::TestWithParam<FaultCase> {};

TEST_P(FaultyStore, GivesTheBitsOfACleanGeneration) {
  const FaultCase c = GetParam();
  const TemporaryStore file;
  const CacheOptions options = with_store(file.path());
  uint64_t faults = 0;
  uint64_t recomputed = 0;
  const auto faulty = [&](uint32_t passed) {
    const auto plan = std::make_shared<FaultPlan>(passed);
    plan->set_overdue(std::chrono::milliseconds(5));
    // Not the superblocks and the scan: those refuse to open.
    plan->add({c.fault, c.kind, passed, 2});
    const Generation generation = generate(options, open_over(plan));
    EXPECT_TRUE(generation.logits == clean().logits) << "after " << passed;
    faults += plan->hits();
    recomputed += kHeld - generation.adopted;
    return generation;
  };
  if (c.kind == IoKind::kRead) {
    ASSERT_FALSE(generate(options, quire_open).publish_failed);
    for (const uint32_t passed : {8U, 13U, 20U}) faulty(passed);
  } else {
    for (const uint32_t passed : {4U, 11U, 18U, 19U}) faulty(passed);
  }
  EXPECT_GT(faults, 0U);
  EXPECT_GT(recomputed, 0U);
  // What the faults have left in the file serves nobody wrongly either, and can be completed.
  const Generation after = generate(options, quire_open);
  EXPECT_TRUE(after.logits == clean().logits);
  EXPECT_FALSE(after.publish_failed);
  const Generation last = generate(options, quire_open);
  EXPECT_EQ(last.adopted, kHeld);
  EXPECT_TRUE(last.logits == clean().logits);
  std::printf("[counts] cases=1 faults=%llu recomputed_tokens=%llu\n",
              static_cast<unsigned long long>(faults), static_cast<unsigned long long>(recomputed));
}

std::vector<FaultCase> all_faults() {
  std::vector<FaultCase> cases;
  for (size_t fault = 0; fault < testing::kFaultCount; ++fault) {
    for (const IoKind kind : {IoKind::kRead, IoKind::kWrite}) {
      const auto known = static_cast<Fault>(fault);
      // A completion that comes twice costs nothing; tests/simulation has it.
      if (possible(known, kind) && known != Fault::kDuplicate) cases.push_back({known, kind});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllFaults, FaultyStore, ::testing::ValuesIn(all_faults()), [](const auto& test) {
  std::string name(testing::fault_name(test.param.fault));
  std::replace(name.begin(), name.end(), ' ', '_');
  return name + (test.param.kind == IoKind::kRead ? "Read" : "Write");
});

}  // namespace
}  // namespace quire::qwen3
