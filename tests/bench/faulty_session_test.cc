// A generation over a disk that fails in every way there is: tokens and logits have the very bits of a clean
// run, because what is lost is computed again.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>

#include "bench/qwen3/json_file.h"
#include "bench/qwen3/session.h"
#include "bindings/c/api.h"
#include "bindings/c/options.h"
#include "tests/bench/test_files.h"
#include "tests/fuzz/seeds.h"
#include "tests/offload/faulty_engine.h"

namespace quire::qwen3 {
namespace {

using testing::Fault;
using testing::FaultPlan;

constexpr size_t kPrompt = 1200;
constexpr uint64_t kGenerated = 8;

const Model& tiny() {
  static const Model model = load_model(tiny_model());
  return model;
}

std::vector<int32_t> prompt() {
  const std::vector<int32_t> ids = tiny().tokenizer.encode(read_text(tiny_model() / "text_end.txt"));
  return {ids.end() - kPrompt, ids.end()};
}

// Nearly every page of the prompt is on disk most of the time.
CacheOptions spilling(quire_codec codec, const TemporaryFolder& folder) {
  CacheOptions options;
  options.key_codec = options.value_codec = codec;
  options.host_budget = 6 << 20;
  options.nvme_budget = 64 << 20;
  options.nvme_path = folder.path();
  options.chunk_tokens = 256;
  return options;
}

// Opens caches over a disk that fails by `plan`.
OpenCache open_over(std::shared_ptr<FaultPlan> plan, Nanoseconds deadline) {
  return [plan = std::move(plan), deadline](const quire_options* options, quire_cache** out) {
    return capi::guarded(0, [&]() -> Status {
      Result<EngineOptions> engine_options = quire::engine_options(*options);
      if (!engine_options.ok()) return engine_options.status();
      engine_options->open_io = testing::faulty_engine_factory(plan);
      engine_options->io_deadline = deadline;
      Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(*engine_options));
      if (!engine.ok()) return engine.status();
      *out = capi::adopt(std::move(*engine));
      return {};
    });
  };
}

struct Generation {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // of the prompt's last tokens and of every generated one
  uint64_t recomputed = 0;
  uint64_t disk_pages = 0;
};

// Reads the prompt in chunks that end inside pages, then goes on greedily.
Generation generate_over(quire_codec codec, const OpenCache& open) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool);
  Cache cache(geometry_of(tiny()), spilling(codec, folder), pool, open);
  Session session(decoder, cache, kPrompt + kGenerated);
  const std::vector<int32_t> text = prompt();
  Generation out;
  std::span<const float> last;
  const auto read = [&](std::span<const int32_t> chunk, uint32_t rows) {
    last = session.read(chunk, rows);
    out.logits.insert(out.logits.end(), last.begin(), last.end());
    last = last.last(tiny().config.vocab_size);
  };
  for (size_t at = 0; at < kPrompt; at += 200) read(std::span(text).subspan(at, 200), 3);
  for (uint64_t i = 0; i < kGenerated; ++i) {
    const auto next = static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
    out.tokens.push_back(next);
    read({&next, 1}, 1);
  }
  out.recomputed = session.recomputed_tokens();
  out.disk_pages = cache.stats().nvme_pages;
  return out;
}

const Generation& clean_generation(quire_codec codec) {
  static std::map<quire_codec, Generation> clean;
  if (!clean.contains(codec)) clean[codec] = generate_over(codec, quire_open);
  return clean[codec];
}

struct FaultCase {
  Fault fault;
  IoKind kind;
  quire_codec codec;
};

// Whether pages that were written and dropped from memory come back wrong or not at all; every other fault is
// noticed while the page is still there.
bool loses_pages(const FaultCase& c) {
  if (c.kind == IoKind::kRead) return c.fault != Fault::kDuplicate;
  return c.fault == Fault::kTorn || c.fault == Fault::kMisdirected;
}

class FaultyGeneration : public ::testing::TestWithParam<FaultCase> {};

TEST_P(FaultyGeneration, HasTheBitsOfACleanOne) {
  const FaultCase c = GetParam();
  const Generation& clean = clean_generation(c.codec);
  ASSERT_EQ(clean.recomputed, 0U);
  ASSERT_GT(clean.disk_pages, 4 * kPrompt / 64 / 2) << "the prompt must not fit into memory";

  const uint64_t seeds = testing::seed_count(1);
  uint64_t faults = 0;
  uint64_t recomputed = 0;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const auto plan = std::make_shared<FaultPlan>(seed);
    // Two hits in any case, and then by chance. A delay costs its deadline, which a busy machine must be able
    // to keep otherwise: few and long ones. Lost pages cost the most: a replay of them may lose others.
    const bool delay = c.fault == Fault::kDelay;
    plan->add({c.fault, c.kind, 2, 2});
    plan->hit_by_chance(delay ? 20 : (c.kind == IoKind::kRead ? 40 : 150), {c.fault}, c.kind);
    const Nanoseconds deadline = std::chrono::milliseconds(delay ? 250 : 30000);
    const Generation faulty = generate_over(c.codec, open_over(plan, deadline));
    EXPECT_EQ(faulty.tokens, clean.tokens) << "seed " << seed;
    EXPECT_TRUE(faulty.logits == clean.logits) << "seed " << seed;
    EXPECT_GE(plan->hits(c.fault, c.kind), 2U) << "seed " << seed;
    faults += plan->hits();
    recomputed += faulty.recomputed;
  }
  std::printf("[counts] cases=1 seeds=%llu faults=%llu recomputed_tokens=%llu\n",
              static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(faults),
              static_cast<unsigned long long>(recomputed));
  if (loses_pages(c)) {
    EXPECT_GT(recomputed, 0U);
  } else {
    EXPECT_EQ(recomputed, 0U);
  }
}

std::vector<FaultCase> all_faults() {
  std::vector<FaultCase> cases;
  for (size_t fault = 0; fault < testing::kFaultCount; ++fault) {
    for (const IoKind kind : {IoKind::kRead, IoKind::kWrite}) {
      if (!possible(static_cast<Fault>(fault), kind)) continue;
      for (const quire_codec codec : {QUIRE_CODEC_INT8, QUIRE_CODEC_ROT4}) {
        cases.push_back({static_cast<Fault>(fault), kind, codec});
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllFaults, FaultyGeneration, ::testing::ValuesIn(all_faults()),
                         [](const auto& test) {
                           std::string name(testing::fault_name(test.param.fault));
                           std::replace(name.begin(), name.end(), ' ', '_');
                           name += test.param.kind == IoKind::kRead ? "Read" : "Write";
                           return name + "_" + codec_name(test.param.codec);
                         });

}  // namespace
}  // namespace quire::qwen3
