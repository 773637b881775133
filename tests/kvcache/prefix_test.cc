// Prefix reuse in a whole engine: what is adopted attends bit for bit like what was computed, in one process
// and after a restart.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/engine_world.h"
#include "tests/support/temporary_store.h"

namespace quire::testing {
namespace {

constexpr uint64_t kTokens = 200;  // six pages of 32, and a tail

World small_world(uint64_t seed) {
  World world;
  world.seed = seed;
  return world;
}

// Tokens whose keys and values are those of world.seed.
std::vector<int32_t> tokens_of(const World& world, uint64_t count) {
  std::vector<int32_t> tokens;
  for (uint64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(world.seed * 100000 + i));
  return tokens;
}

std::unique_ptr<Engine> open_with_store(const World& world, const std::string& path,
                                        uint64_t budget = uint64_t{8} << 20) {
  EngineOptions options = engine_options(world);
  options.store_path = path;
  options.store_budget = budget;
  options.model_fingerprint = {1, 2};
  Result<std::unique_ptr<Engine>> engine = Engine::open(std::move(options));
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

PrefixChain chain_of(const Engine& engine, const std::vector<int32_t>& tokens, uint64_t tenant = 7) {
  const PrefixScope scope{engine.model_fingerprint(), {tenant, 0}, 0, 0, layout_hash(engine.config())};
  return make_chain(scope, engine.config().page_tokens, tokens);
}

Sequence* new_sequence(Engine& engine) {
  Result<Sequence*> sequence = engine.cache().create_sequence();
  EXPECT_TRUE(sequence.ok());
  return *sequence;
}

// The outputs of the last tokens, from the first that no block holds on.
Output tail_of(const Output& all, const World& world, uint64_t first) {
  Output out;
  for (const auto& rows : all.out) {
    out.out.emplace_back(rows.begin() + static_cast<ptrdiff_t>(first * world.query_row()), rows.end());
  }
  return out;
}

void expect_same(const Output& a, const Output& b) {
  ASSERT_TRUE(a.status.ok() && b.status.ok()) << a.status.message() << b.status.message();
  ASSERT_EQ(a.out.size(), b.out.size());
  for (size_t layer = 0; layer < a.out.size(); ++layer) EXPECT_EQ(a.out[layer], b.out[layer]);
}

// A sequence computed from nothing, published. *out: of every token.
Sequence* compute(Engine& engine, const World& world, Output* out) {
  Sequence* sequence = new_sequence(engine);
  *out = run_chunks(engine, world, sequence, 0, kTokens, 50);
  EXPECT_TRUE(out->status.ok()) << out->status.message();
  const PrefixChain chain = chain_of(engine, tokens_of(world, kTokens));
  const Result<uint64_t> stored = engine.prefixes().publish(sequence, chain);
  EXPECT_TRUE(stored.ok()) << stored.status().message();
  return sequence;
}

uint64_t adopt(Engine& engine, const World& world, Sequence* sequence, uint64_t tenant = 7) {
  PrefixChain chain = chain_of(engine, tokens_of(world, kTokens), tenant);
  const Result<uint64_t> tokens = engine.prefixes().adopt(sequence, &chain);
  EXPECT_TRUE(tokens.ok()) << tokens.status().message();
  return tokens.ok() ? *tokens : 0;
}

// Adopts, computes the rest and compares with what the first run put out.
void expect_adopts(Engine& engine, const World& world, const Output& first_run, uint64_t tokens) {
  Sequence* sequence = new_sequence(engine);
  ASSERT_EQ(adopt(engine, world, sequence), tokens);
  EXPECT_EQ(engine.cache().length(sequence), tokens);
  const Output rest = run_chunks(engine, world, sequence, tokens, kTokens - tokens, 50);
  expect_same(rest, tail_of(first_run, world, tokens));
}

TEST(Prefix, LiveSequencesShareTheirPages) {
  const World world = small_world(1);
  auto engine = open_engine(world);
  Output out;
  Sequence* first = compute(*engine, world, &out);
  const uint64_t pages = [&] {
    ResidencyLock lock = engine->residency().lock();
    return engine->residency().counts(lock).pages;
  }();
  expect_adopts(*engine, world, out, 192);
  ResidencyLock lock = engine->residency().lock();
  EXPECT_EQ(engine->residency().counts(lock).pages, pages) << "shared pages count once";
  lock.unlock();
  EXPECT_TRUE(engine->cache().free(first).ok());
  expect_adopts(*engine, world, out, 192);  // from the sequence that adopted
}

TEST(Prefix, FreedSequencesAreForgottenWithoutAStore) {
  const World world = small_world(1);
  auto engine = open_engine(world);
  Output out;
  Sequence* first = compute(*engine, world, &out);
  EXPECT_TRUE(engine->cache().free(first).ok());
  EXPECT_EQ(adopt(*engine, world, new_sequence(*engine)), 0U);
}

TEST(Prefix, SurvivesARestart) {
  const TemporaryStore file;
  const World world = small_world(3);
  Output out;
  {
    auto engine = open_with_store(world, file.path());
    compute(*engine, world, &out);
    EXPECT_EQ(engine->prefixes().store()->stats().stored_blocks, 6U);
  }
  auto engine = open_with_store(world, file.path());
  EXPECT_EQ(engine->prefixes().store()->stats().recovered_blocks, 6U);
  const auto match = engine->prefixes().match(chain_of(*engine, tokens_of(world, kTokens)));
  ASSERT_TRUE(match.ok());
  EXPECT_EQ(*match, 192U);
  expect_adopts(*engine, world, out, 192);
  EXPECT_EQ(engine->prefixes().counts().loaded_tokens, 192U);
}

TEST(Prefix, TenantsModelsAndTokensKeepApart) {
  const TemporaryStore file;
  const World world = small_world(1);
  Output out;
  auto engine = open_with_store(world, file.path());
  compute(*engine, world, &out);
  EXPECT_EQ(adopt(*engine, world, new_sequence(*engine), 8), 0U) << "another tenant";
  EXPECT_EQ(adopt(*engine, small_world(2), new_sequence(*engine)), 0U) << "other tokens";
  PrefixChain chain = chain_of(*engine, tokens_of(world, kTokens));
  chain.scope.model[0] ^= 1;
  chain = make_chain(chain.scope, chain.page_tokens, chain.tokens);
  const auto adopted = engine->prefixes().adopt(new_sequence(*engine), &chain);
  ASSERT_TRUE(adopted.ok());
  EXPECT_EQ(*adopted, 0U) << "another model";
}

// What two prompts have in common, and no more; the rest differs in tokens and in keys.
TEST(Prefix, ABranchIsAdoptedUpToWhereItLeaves) {
  const TemporaryStore file;
  const World world = small_world(1);
  Output out;
  {
    auto engine = open_with_store(world, file.path());
    compute(*engine, world, &out);
  }
  auto engine = open_with_store(world, file.path());
  std::vector<int32_t> tokens = tokens_of(world, kTokens);
  tokens[100] += 1;
  PrefixChain chain = chain_of(*engine, tokens);
  const auto adopted = engine->prefixes().adopt(new_sequence(*engine), &chain);
  ASSERT_TRUE(adopted.ok());
  EXPECT_EQ(*adopted, 96U);
}

// Every byte of the file's pages and headers is hit by one of these; the run is shorter, never wrong.
TEST(Prefix, ADamagedStoreGivesFewerTokens) {
  const TemporaryStore file;
  const World world = small_world(4);
  Output out;
  {
    auto engine = open_with_store(world, file.path());
    compute(*engine, world, &out);
  }
  const StoreShape shape = [&] {
    const auto engine = open_engine(world);
    return store_shape(engine->config());
  }();
  uint64_t faults = 0;
  for (const uint64_t block : {4, 2, 0}) {
    for (const uint64_t at : {shape.data_offset(block) + 777, shape.header_offset(block) + 260}) {
      {
        std::fstream bytes(file.path(), std::ios::in | std::ios::out | std::ios::binary);
        bytes.seekp(static_cast<std::streamoff>(at));
        bytes.put('!');
      }
      ++faults;
      auto engine = open_with_store(world, file.path());
      expect_adopts(*engine, world, out, block * 32);
      // Published again, for the next fault.
      Output again;
      compute(*engine, world, &again);
    }
  }
  std::printf("[counts] cases=6 faults=%llu\n", static_cast<unsigned long long>(faults));
}

// More blocks than memory holds go on to the disk tier as they come.
TEST(Prefix, AdoptsMoreThanMemoryHolds) {
  const TemporaryStore file;
  World world = small_world(5);
  constexpr uint64_t kLong = 6000;
  Output first_run;
  {
    auto engine = open_with_store(world, file.path(), 64 << 20);
    Sequence* sequence = new_sequence(*engine);
    first_run = run_chunks(*engine, world, sequence, 0, kLong, 500);
    const auto stored = engine->prefixes().publish(sequence, chain_of(*engine, tokens_of(world, kLong)));
    ASSERT_TRUE(stored.ok());
    EXPECT_EQ(*stored, kLong / 32);
  }
  world.host_budget = 4 << 20;
  world.nvme_budget = 64 << 20;
  auto engine = open_with_store(world, file.path(), 64 << 20);
  Sequence* sequence = new_sequence(*engine);
  PrefixChain chain = chain_of(*engine, tokens_of(world, kLong));
  const auto adopted = engine->prefixes().adopt(sequence, &chain);
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  EXPECT_EQ(*adopted, kLong / 32 * 32);
  EXPECT_LE(engine->host_budget().peak(), world.host_budget);
  {
    ResidencyLock lock = engine->residency().lock();
    EXPECT_GT(engine->residency().counts(lock).disk_pages, 0U);
  }
  const Output rest = run_chunks(*engine, world, sequence, *adopted, kLong - *adopted, 500);
  expect_same(rest, tail_of(first_run, world, *adopted));
}

TEST(Prefix, AdoptedPagesAreChosenLikeComputedOnes) {
  const TemporaryStore file;
  World world = small_world(6);
  world.digests = true;
  world.selection.kind = SelectionKind::kTopPages;
  world.selection.pages = 2;
  Output out;
  {
    auto engine = open_with_store(world, file.path());
    compute(*engine, world, &out);
  }
  auto engine = open_with_store(world, file.path());
  expect_adopts(*engine, world, out, 192);
}

TEST(Prefix, SequencesGoOnAfterAdopting) {
  const TemporaryStore file;
  const World world = small_world(7);
  Output out;
  auto engine = open_with_store(world, file.path());
  Sequence* first = compute(*engine, world, &out);
  Sequence* sequence = new_sequence(*engine);
  ASSERT_EQ(adopt(*engine, world, sequence), 192U);
  // A fork, a cut inside a page, more tokens.
  const auto fork = engine->cache().fork(sequence);
  ASSERT_TRUE(fork.ok());
  ASSERT_TRUE(engine->cache().truncate(*fork, 64).ok());
  expect_same(run_chunks(*engine, world, *fork, 64, 50, 50), run_chunks(*engine, world, *fork, 64, 50, 50));
  ASSERT_TRUE(engine->cache().free(first).ok());
  ASSERT_TRUE(engine->cache().free(*fork).ok());
  expect_same(run_chunks(*engine, world, sequence, 192, 8, 50), tail_of(out, world, 192));
  const auto stored = engine->prefixes().publish(sequence, chain_of(*engine, tokens_of(world, kTokens)));
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(*stored, 0U);
}

TEST(Prefix, WrongUseIsRefused) {
  const TemporaryStore file;
  World world = small_world(8);
  auto engine = open_with_store(world, file.path());
  Output out;
  Sequence* sequence = compute(*engine, world, &out);
  PrefixChain chain = chain_of(*engine, tokens_of(world, kTokens));
  EXPECT_EQ(engine->prefixes().adopt(sequence, &chain).status().code(), StatusCode::kInvalid) << "not empty";
  const PrefixChain longer = chain_of(*engine, tokens_of(world, kTokens + 100));
  EXPECT_EQ(engine->prefixes().publish(sequence, longer).status().code(), StatusCode::kInvalid);
  EngineOptions options = engine_options(world);
  options.store_path = file.path();
  options.store_budget = 8 << 20;
  EXPECT_EQ(Engine::open(options).status().code(), StatusCode::kInvalid) << "no fingerprint";
  options.model_fingerprint = {1, 2};
  const auto second = Engine::open(options);
  EXPECT_NE(second.status().message().find("is in use by another process or cache"), std::string::npos);
  world.recent_pages = 1;
  auto recent = open_engine(world);
  EXPECT_EQ(recent->prefixes().adopt(new_sequence(*recent), &chain).status().code(),
            StatusCode::kUnsupported);
}

}  // namespace
}  // namespace quire::testing
