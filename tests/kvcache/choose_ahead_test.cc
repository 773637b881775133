// Reading what guessed queries choose: right, wrong or half right, over a disk that fails, before exact
// attention; the bits are always those of a run that guesses nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "tests/offload/faulty_engine.h"
#include "tests/support/engine_world.h"

namespace quire::testing {
namespace {

constexpr uint64_t kPrompt = 2400;

Selection top(uint32_t pages) {
  Selection selection;
  selection.kind = SelectionKind::kTopPages;
  selection.pages = pages;
  return selection;
}

// Most pages lie on disk, nothing that is read stays, and of a page only the chosen heads are read.
World on_disk() {
  World world;
  world.digests = true;
  world.selection = top(4);
  world.key_codec = world.value_codec = CodecId::kBf16;
  world.head_dim = 32;
  world.kv_heads = 4;
  world.read_gap = 0;
  world.eviction = Eviction::kNewestFirst;
  world.host_budget = uint64_t{2} << 20;
  world.nvme_budget = uint64_t{64} << 20;
  world.max_step_tokens = 64;
  return world;
}

// A prompt without guesses, then tokens one by one with them.
Output decode(World world, std::unique_ptr<Engine>* engine) {
  const std::optional<Guess> guess = std::exchange(world.guess, std::nullopt);
  *engine = open_engine(world);
  Sequence* sequence = *(*engine)->cache().create_sequence();
  Output output = run_chunks(**engine, world, sequence, 0, kPrompt, 64);
  world.guess = guess;
  for (uint64_t i = 0; i < 40 && output.status.ok(); ++i) {
    output.extend(run_step(**engine, world, sequence, kPrompt + i, 1));
  }
  EXPECT_TRUE(output.status.ok()) << output.status.message();
  return output;
}

struct Sections {
  uint64_t foreseen;
  uint64_t used;
};

Sections sections(const Engine& engine) {
  return {engine.counters().foreseen_sections.load(), engine.counters().foreseen_sections_used.load()};
}

TEST(ChooseAhead, ARightGuessIsUsedWhole) {
  World world = on_disk();
  std::unique_ptr<Engine> engine;
  const Output want = decode(world, &engine);
  EXPECT_EQ(sections(*engine).foreseen, 0U);
  world.guess = {world.selection, 0};
  const Output got = decode(world, &engine);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.missed, want.missed);
  const Sections counted = sections(*engine);
  EXPECT_GT(counted.foreseen, 200U);
  EXPECT_EQ(counted.used, counted.foreseen);
}

TEST(ChooseAhead, AWrongGuessCostsReadsAndNoBit) {
  World world = on_disk();
  std::unique_ptr<Engine> engine;
  const Output want = decode(world, &engine);
  world.guess = {top(8), 5};
  const Output got = decode(world, &engine);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.lse, want.lse);
  EXPECT_EQ(got.missed, want.missed);
  const Sections counted = sections(*engine);
  EXPECT_GT(counted.used, 0U);
  EXPECT_LT(counted.used, counted.foreseen);
}

TEST(ChooseAhead, ChunksAreForeseenAsFarAsTheirPagesAreThere) {
  World world = on_disk();
  std::unique_ptr<Engine> engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  const Output want = run_chunks(*engine, world, sequence, 0, kPrompt, 50);
  world.guess = {world.selection, 1};
  engine = open_engine(world);
  sequence = *engine->cache().create_sequence();
  const Output got = run_chunks(*engine, world, sequence, 0, kPrompt, 50);
  ASSERT_TRUE(want.status.ok() && got.status.ok()) << want.status.message() << got.status.message();
  EXPECT_EQ(got.out, want.out);
  EXPECT_GT(sections(*engine).used, 0U);
}

// What came up is some heads' part, or every head's, of what exact attention or a choice that is checked
// needs.
TEST(ChooseAhead, AttentionOfEveryPageFollows) {
  Selection checked = top(4);
  checked.check = true;
  for (const Selection& selection : {Selection{}, checked}) {
    World world = on_disk();
    world.selection = selection;
    std::unique_ptr<Engine> engine;
    const Output want = decode(world, &engine);
    for (const uint32_t guessed : {4U, 1000U}) {
      const uint64_t refills = count_refills();
      world.guess = {top(guessed), 0};
      const Output got = decode(world, &engine);
      EXPECT_EQ(got.out, want.out);
      EXPECT_EQ(got.missed, want.missed);
      EXPECT_GT(sections(*engine).foreseen, 0U);
      EXPECT_EQ(count_refills(), refills);
    }
  }
}

TEST(ChooseAhead, AFailingDiskCostsTimeNeverAnAnswer) {
  World world = on_disk();
  std::unique_ptr<Engine> engine;
  const Output clean = decode(world, &engine);
  uint64_t faults = 0;
  for (const Fault fault : {Fault::kEio, Fault::kBitFlip}) {
    const auto plan = std::make_shared<FaultPlan>(12);
    plan->hit_by_chance(30, {fault});
    world.open_io = faulty_engine_factory(plan);
    world.guess = {top(6), 3};
    const uint64_t refills = count_refills();
    const Output got = decode(world, &engine);
    EXPECT_EQ(got.out, clean.out);
    EXPECT_EQ(got.missed, clean.missed);
    EXPECT_GT(count_refills(), refills);
    EXPECT_GT(sections(*engine).used, 0U);
    faults += plan->hits();
  }
  engine.reset();
  std::printf("[counts] cases=2 faults=%llu\n", static_cast<unsigned long long>(faults));
}

uint64_t pinned_pages(Engine& engine, const Sequence& sequence) {
  const ResidencyLock lock = engine.residency().lock();
  uint64_t pinned = 0;
  for (const SequenceLayer& layer : sequence.layers) {
    for (const Page* page : layer.table->pages) pinned += page->pins > 0 ? 1 : 0;
  }
  return pinned;
}

// Pages that stay pinned, once they are lost and refilled, take memory that nothing can free. Of two runs the
// first is wanted for its first page, the other not at all.
TEST(ChooseAhead, WhatWasPrefetchedIsTakenOrGivenBack) {
  World world = on_disk();
  world.selection = top(0);
  std::unique_ptr<Engine> engine;
  const Output want = decode(world, &engine);
  engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kPrompt, 64).status.ok());
  const uint64_t run_tokens = kRunPages * world.page_tokens;
  ASSERT_TRUE(engine->cache().prefetch(sequence, 1, 0, 1).ok());
  const uint64_t of_one = pinned_pages(*engine, *sequence);
  ASSERT_TRUE(engine->cache().prefetch(sequence, 1, 2 * run_tokens, 1).ok());
  EXPECT_GT(of_one, 0U);
  EXPECT_GT(pinned_pages(*engine, *sequence), of_one);
  const Output got = run_step(*engine, world, sequence, kPrompt, 1);
  ASSERT_TRUE(got.status.ok()) << got.status.message();
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    const auto decoded = want.out[layer].begin() + static_cast<ptrdiff_t>(kPrompt * world.query_row());
    EXPECT_EQ(got.out[layer], std::vector<float>(decoded, decoded + world.query_row()));
  }
  EXPECT_EQ(sections(*engine).used, 0U) << "nobody has guessed";
  ASSERT_TRUE(engine->cache().flush().ok());  // no write holds a page any more
  EXPECT_EQ(pinned_pages(*engine, *sequence), 0U);
}

TEST(ChooseAhead, NaNIsRefusedAndTheStepGoesOn) {
  const World world = on_disk();
  const std::unique_ptr<Engine> engine = open_engine(world);
  Sequence* sequence = *engine->cache().create_sequence();
  ASSERT_TRUE(run_chunks(*engine, world, sequence, 0, kPrompt, 64).status.ok());
  std::vector<float> queries(world.query_row(), NAN);
  const StepRequest request{sequence, kPrompt, 1};
  const Result<std::unique_ptr<OpenStep>> step = engine->cache().begin({&request, 1});
  ASSERT_TRUE(step.ok());
  const AttendArgs args{1, view(queries, world.head_dim, world.query_heads), {}, 0, nullptr, nullptr, top(4)};
  EXPECT_EQ(engine->cache().choose_ahead(step->get(), world.layers, args).code(), StatusCode::kInvalid);
  ASSERT_TRUE(engine->cache().choose_ahead(step->get(), 1, args).ok());
  EXPECT_EQ(engine->cache().wait(step->get()).code(), StatusCode::kNotFinite);
  queries.assign(queries.size(), 0.5F);
  ASSERT_TRUE(engine->cache().choose_ahead(step->get(), 1, args).ok());
  EXPECT_TRUE(engine->cache().wait(step->get()).ok());
  EXPECT_GT(sections(*engine).foreseen, 0U);
  EXPECT_FALSE(engine->cache().end(step->get()).ok());  // nothing was appended
}

}  // namespace
}  // namespace quire::testing
