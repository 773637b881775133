// quire.hpp: ownership, errors and outcomes. Numbers are the C test's matter; here one run proves the wiring.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <quire.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/bindings/plain_attention.h"

namespace {

constexpr plain_shape kShape = {4, 2, 32};
constexpr size_t kRow = 2 * 32, kQueryRow = 4 * 32;

template <typename T>
constexpr bool kMoveOnly = std::is_nothrow_move_constructible_v<T>&& std::is_nothrow_move_assignable_v<T> &&
                           !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(kMoveOnly<quire::Cache> && kMoveOnly<quire::Sequence> && kMoveOnly<quire::Step>);

quire_options small_options() {
  quire_options options = quire::default_options();
  options.layers = 1;
  options.query_heads = kShape.query_heads;
  options.kv_heads = kShape.kv_heads;
  options.head_dim = kShape.head_dim;
  options.key_codec = options.value_codec = QUIRE_CODEC_F32;
  options.host_budget = 32 << 20;
  options.threads = 1;
  return options;
}

std::vector<float> randoms(unsigned long long seed, size_t count) {
  std::vector<float> x(count);
  plain_random(seed, x.data(), count);
  return x;
}

// Appends tokens [first, first + count) of zeros or of the given rows.
void append(quire::Cache& cache, const quire::Sequence& sequence, uint64_t first, uint64_t count,
            const std::vector<float>& rows) {
  quire::Step step = cache.begin({{sequence, first, count}});
  step.append(0, quire::input(rows.data()), quire::input(rows.data()));
  EXPECT_EQ(step.wait(), quire::Outcome::kDone);
  step.end();
}

template <typename Call>
quire_status status_of(Call&& call) {
  try {
    call();
  } catch (const quire::Error& error) {
    EXPECT_GT(std::string(error.what()).size(), 10U);
    return error.status();
  }
  return QUIRE_OK;
}

TEST(CppApi, AttendsAsPlainAttention) {
  constexpr size_t kTokens = 130;
  const auto keys = randoms(1, kTokens * kRow), values = randoms(2, kTokens * kRow);
  const auto queries = randoms(3, kTokens * kQueryRow);
  std::vector<float> out(kTokens * kQueryRow);
  std::vector<double> want(kQueryRow);

  quire::Cache cache(small_options());
  quire::Sequence sequence = cache.create_sequence();
  quire::Step step = cache.begin({{sequence, 0, kTokens}});
  step.append(0, quire::input(keys.data()), quire::input(values.data()));
  step.attend(0, quire::input(queries.data()), quire::output(out.data()));
  ASSERT_EQ(step.wait(), quire::Outcome::kDone);
  step.end();

  EXPECT_EQ(sequence.length(), kTokens);
  for (size_t t = 0; t < kTokens; ++t) {
    plain_attention(&kShape, keys.data(), values.data(), &queries[t * kQueryRow], t, want.data());
    for (size_t i = 0; i < kQueryRow; ++i) ASSERT_NEAR(out[t * kQueryRow + i], want[i], 2e-5) << t;
  }
  EXPECT_EQ(cache.stats().tokens, kTokens);
}

// All pages chosen, in either way: the bits of exact attention.
TEST(CppApi, SelectsPages) {
  constexpr size_t kTokens = 300;
  const auto keys = randoms(1, kTokens * kRow), values = randoms(2, kTokens * kRow);
  const auto queries = randoms(3, kTokens * kQueryRow);
  quire_options options = small_options();
  options.digests = 1;
  quire::Cache cache(options);
  quire::Sequence sequence = cache.create_sequence();
  quire::Step step = cache.begin({{sequence, 0, kTokens}});
  step.append(0, quire::input(keys.data()), quire::input(values.data()));
  const auto attend = [&](quire_attend_args args) {
    std::vector<float> out(kTokens * kQueryRow);
    args.queries = quire::input(queries.data());
    args.out = quire::output(out.data());
    step.attend(0, args);
    EXPECT_EQ(step.wait(), quire::Outcome::kDone);
    return out;
  };
  const std::vector<float> exact = attend(quire::default_attend_args());
  EXPECT_EQ(attend(quire::top_pages(1000)), exact);
  EXPECT_EQ(attend(quire::top_pages(0, kTokens)), exact);
  EXPECT_EQ(attend(quire::mass_of(1)), exact);
  EXPECT_NE(attend(quire::top_pages(0)), exact);
  EXPECT_GT(cache.stats().pages_skipped, 0U);
}

TEST(CppApi, HandlesMayDieInAnyOrder) {
  const std::vector<float> rows(8 * kRow);
  auto cache = std::make_unique<quire::Cache>(small_options());
  quire::Sequence sequence = cache->create_sequence();
  append(*cache, sequence, 0, 8, rows);
  quire::Sequence fork = sequence.fork();
  quire::Sequence moved = std::move(sequence);
  cache.reset();
  EXPECT_EQ(moved.length(), 8U);
  EXPECT_EQ(fork.length(), 8U);
  moved = std::move(fork);
  EXPECT_EQ(moved.length(), 8U);
}

TEST(CppApi, AStepThatIsNotEndedEndsItself) {
  const std::vector<float> rows(8 * kRow);
  quire::Cache cache(small_options());
  quire::Sequence sequence = cache.create_sequence();
  {
    quire::Step step = cache.begin({{sequence, 0, 8}});
    step.append(0, quire::input(rows.data()), quire::input(rows.data()));
  }
  EXPECT_EQ(sequence.length(), 8U);
}

TEST(CppApi, FailuresThrowTheStatusAndTheSentence) {
  quire_options options = small_options();
  options.head_dim = 100;
  EXPECT_EQ(status_of([&] { quire::Cache cache(options); }), QUIRE_INVALID);

  quire::Cache cache(small_options());
  quire::Sequence sequence = cache.create_sequence();
  EXPECT_EQ(status_of([&] { (void)cache.begin({{sequence, 3, 8}}); }), QUIRE_INVALID);
  EXPECT_EQ(status_of([&] { (void)sequence.truncate(1); }), QUIRE_INVALID);

  std::vector<float> rows(8 * kRow);
  rows[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(status_of([&] { append(cache, sequence, 0, 8, rows); }), QUIRE_NOT_FINITE);
  EXPECT_EQ(sequence.length(), 0U);
}

TEST(CppApi, TruncateGoesBackAndOn) {
  const std::vector<float> rows(100 * kRow);
  quire::Cache cache(small_options());
  quire::Sequence sequence = cache.create_sequence();
  append(cache, sequence, 0, 100, rows);
  EXPECT_EQ(sequence.truncate(30), quire::Outcome::kDone);
  append(cache, sequence, 30, 10, rows);
  EXPECT_EQ(sequence.length(), 40U);
}

TEST(CppApi, CloseNeedsTheCacheAlone) {
  quire::Cache cache(small_options());
  {
    quire::Sequence sequence = cache.create_sequence();
    EXPECT_EQ(status_of([&] { cache.close(); }), QUIRE_INVALID);
  }
  cache.close();
}

TEST(CppApi, CapabilitiesNameTheKernels) { EXPECT_FALSE(std::string(quire::capabilities().isa).empty()); }

}  // namespace
