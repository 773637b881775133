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
constexpr size_t kChunk = 100;  // so that most chunks end inside a page
constexpr uint64_t kGenerated = 8;

const Model& tiny() {
  static const Model model = load_model(tiny_model());
  return model;
}

const std::vector<int32_t>& text() {
  static const std::vector<int32_t> ids = tiny().tokenizer.encode(read_text(tiny_model() / "text_end.txt"));
  return ids;
}

// Memory has room for some of a prompt's pages, but not for all; and beside what a cache needs to open
// (5.6 MiB with three reads staged) for the unfinished pages of a second sequence, .5 MiB.
CacheOptions spilling(quire_codec codec, const TemporaryFolder& folder) {
  CacheOptions options;
  options.key_codec = options.value_codec = codec;
  options.host_budget = 13 << 19;
  options.nvme_budget = 64 << 20;
  options.nvme_path = folder.path();
  options.chunk_tokens = 128;
  return options;
}

// Opens caches over a disk that fails by `plan`.
OpenCache open_over(std::shared_ptr<FaultPlan> plan) {
  return [plan = std::move(plan)](const quire_options* options, quire_cache** out) {
    return capi::guarded(0, [&]() -> Status {
      Result<EngineOptions> engine_options = quire::engine_options(*options);
      if (!engine_options.ok()) return engine_options.status();
      engine_options->open_io = testing::faulty_engine_factory(plan);
      Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(*engine_options));
      if (!engine.ok()) return engine.status();
      *out = capi::adopt(std::move(*engine));
      return {};
    });
  };
}

struct Generation {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // of the prompts' last tokens and of every generated one
  uint64_t recomputed = 0;
  uint64_t pages_in_memory = 0;  // after both prompts
  uint64_t pages_on_disk = 0;
};

// Reads two prompts in chunks that end inside pages, then goes on greedily with the first. What was used last
// leaves memory last, and the second prompt alone is too large for it: every page of the first is gone by
// then and comes back from disk.
Generation generate_over(quire_codec codec, const OpenCache& open, bool selective = false) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool);
  CacheOptions options = spilling(codec, folder);
  if (selective) {
    options.prefill = {QUIRE_SELECT_TOP_PAGES, 5, 0, 64, false};
    options.select = {QUIRE_SELECT_TOP_PAGES, 3, 0, 64, false};
  }
  Cache cache(geometry_of(tiny()), options, pool, open);
  Session first(decoder, cache, kPrompt + kGenerated);
  Session second(decoder, cache, kPrompt);
  Generation out;
  const auto read = [&](Session& session, std::span<const int32_t> chunk, uint32_t rows) {
    const std::span<const float> logits = session.read(chunk, rows);
    out.logits.insert(out.logits.end(), logits.begin(), logits.end());
    const auto last = logits.last(tiny().config.vocab_size);
    return static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
  };
  const auto read_prompt = [&](Session& session, std::span<const int32_t> prompt) {
    int32_t next = 0;
    for (size_t at = 0; at < kPrompt; at += kChunk) {
      const bool silent =
          selective && at / kChunk % 2 == 0;  // chunks of a prompt, and tokens that are scored
      if (silent) {
        session.read(prompt.subspan(at, kChunk), 0);
      } else {
        next = read(session, prompt.subspan(at, kChunk), 3);
      }
    }
    return next;
  };
  int32_t next = read_prompt(first, std::span(text()).last(kPrompt));
  read_prompt(second, std::span(text()).first(kPrompt));
  const quire_stats stats = cache.stats();
  out.pages_in_memory = stats.host_pages;
  out.pages_on_disk = stats.nvme_pages;
  for (uint64_t i = 0; i < kGenerated; ++i) {
    out.tokens.push_back(next);
    next = read(first, {&next, 1}, 1);
  }
  out.recomputed = first.recomputed_tokens() + second.recomputed_tokens();
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
  const uint64_t pages_of_prompt = kPrompt / 64 * tiny().config.layers;
  ASSERT_LT(clean.pages_in_memory, pages_of_prompt) << "the second prompt must not fit into memory";
  ASSERT_GE(clean.pages_on_disk, pages_of_prompt) << "all of the first prompt must be on disk";

  const uint64_t seeds = testing::seed_count(1);
  uint64_t faults = 0;
  uint64_t recomputed = 0;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const auto plan = std::make_shared<FaultPlan>(seed);
    // Two hits in any case, and then by chance. Lost pages cost the most: a replay of them may lose others.
    plan->add({c.fault, c.kind, 2, 2});
    plan->hit_by_chance(c.kind == IoKind::kRead ? 40 : 150, {c.fault}, c.kind);
    plan->set_overdue(std::chrono::milliseconds(5));
    const Generation faulty = generate_over(c.codec, open_over(plan));
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

// Prompts are read with three logits per chunk or with none, so that both ways of choosing are repeated.
TEST(SelectiveGeneration, HasTheBitsOfACleanOne) {
  const Generation exact = generate_over(QUIRE_CODEC_ROT4, quire_open);
  const Generation clean = generate_over(QUIRE_CODEC_ROT4, quire_open, true);
  EXPECT_FALSE(clean.logits == exact.logits);  // pages were left out
  uint64_t faults = 0;
  uint64_t recomputed = 0;
  for (const Fault fault : {Fault::kBitFlip, Fault::kEio}) {
    const auto plan = std::make_shared<FaultPlan>(3);
    plan->add({fault, IoKind::kRead, 2, 2});
    plan->hit_by_chance(60, {fault}, IoKind::kRead);
    const Generation faulty = generate_over(QUIRE_CODEC_ROT4, open_over(plan), true);
    EXPECT_EQ(faulty.tokens, clean.tokens);
    EXPECT_TRUE(faulty.logits == clean.logits);
    faults += plan->hits();
    recomputed += faulty.recomputed;
  }
  EXPECT_GT(recomputed, 0U);
  std::printf("[counts] cases=2 faults=%llu recomputed_tokens=%llu\n",
              static_cast<unsigned long long>(faults), static_cast<unsigned long long>(recomputed));
}

}  // namespace
}  // namespace quire::qwen3
