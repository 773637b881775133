// Merging and finishing of attention states against f64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr float kEmpty = -std::numeric_limits<float>::infinity();

struct State {
  State(uint32_t rows_of, uint32_t dim_of)
      : rows(rows_of), dim(dim_of), o(size_t{rows} * dim), m(rows, kEmpty), l(rows) {}

  AttendState view() { return {o.data(), m.data(), l.data()}; }
  bool operator==(const State&) const = default;

  uint32_t rows;
  uint32_t dim;
  std::vector<float> o;
  std::vector<float> m;
  std::vector<float> l;
};

State random_state(uint32_t rows, uint32_t dim, uint64_t seed) {
  Random random(seed);
  State state(rows, dim);
  for (float& value : state.o) value = random.normal();
  for (float& value : state.m) value = random.normal() * 5;
  for (float& value : state.l) value = 1 + static_cast<float>(random.uniform()) * 10;
  return state;
}

State merged(const Kernels& kernels, State into, State from) {
  kernels.merge(into.view(), from.view(), into.rows, into.dim);
  return into;
}

// Output and natural log-sum-exp that a state stands for.
double output_of(const State& s, uint32_t row, uint32_t i) {
  return double{s.o[size_t{row} * s.dim + i]} / s.l[row];
}
double weight_of(const State& s, uint32_t row) { return s.l[row] * std::exp2(double{s.m[row]}); }

class Merge : public PerIsa {};

TEST_P(Merge, AddsWeightsAndOutputs) {
  for (const uint32_t dim : {32U, 96U, 128U, 256U}) {
    for (const uint32_t rows : {1U, 2U, 7U}) {
      const State a = random_state(rows, dim, 1 + dim);
      const State b = random_state(rows, dim, 2 + dim);
      const State c = merged(kernels(), a, b);
      for (uint32_t row = 0; row < rows; ++row) {
        const double wa = weight_of(a, row);
        const double wb = weight_of(b, row);
        EXPECT_NEAR(weight_of(c, row) / (wa + wb), 1, 1e-6);
        for (uint32_t i = 0; i < dim; ++i) {
          const double expected = (output_of(a, row, i) * wa + output_of(b, row, i) * wb) / (wa + wb);
          EXPECT_NEAR(output_of(c, row, i), expected, 2e-6);
        }
      }
    }
  }
}

TEST_P(Merge, IsAssociativeWithinRounding) {
  const State a = random_state(5, 128, 11);
  const State b = random_state(5, 128, 12);
  const State c = random_state(5, 128, 13);
  const State left = merged(kernels(), merged(kernels(), a, b), c);
  const State right = merged(kernels(), a, merged(kernels(), b, c));
  for (uint32_t row = 0; row < 5; ++row) {
    EXPECT_NEAR(weight_of(left, row) / weight_of(right, row), 1, 1e-6);
    for (uint32_t i = 0; i < 128; ++i) EXPECT_NEAR(output_of(left, row, i), output_of(right, row, i), 2e-6);
  }
}

TEST_P(Merge, EmptyRowsChangeNothing) {
  const State a = random_state(3, 64, 21);
  EXPECT_EQ(merged(kernels(), a, State(3, 64)), a);
  EXPECT_EQ(merged(kernels(), State(3, 64), a), a);
  EXPECT_EQ(merged(kernels(), State(3, 64), State(3, 64)), State(3, 64));
}

TEST_P(Merge, FarApartStatesKeepTheLarger) {
  State a = random_state(2, 32, 31);
  State b = random_state(2, 32, 32);
  std::ranges::fill(a.m, 1000.0F);
  std::ranges::fill(b.m, -1000.0F);
  EXPECT_EQ(merged(kernels(), a, b), a);
  EXPECT_EQ(merged(kernels(), b, a), a);
}

TEST_P(Merge, FinishDividesAndGivesTheNaturalLogarithm) {
  for (const uint32_t dim : {32U, 96U, 256U}) {
    State state = random_state(4, dim, 41);
    state.l[2] = 0;
    state.m[2] = kEmpty;
    std::fill_n(state.o.begin() + ptrdiff_t{2} * dim, dim, 0.0F);
    const State before = state;
    std::vector<float> lse(4);
    kernels().finish(state.view(), 4, dim, lse.data());
    for (uint32_t row = 0; row < 4; ++row) {
      if (row == 2) {
        EXPECT_EQ(lse[row], kEmpty);
        for (uint32_t i = 0; i < dim; ++i) EXPECT_EQ(state.o[size_t{row} * dim + i], 0.0F);
        continue;
      }
      const double expected = (before.m[row] + std::log2(double{before.l[row]})) * std::numbers::ln2;
      EXPECT_NEAR(lse[row], expected, 1e-5 * (1 + std::fabs(expected)));
      for (uint32_t i = 0; i < dim; ++i) {
        EXPECT_NEAR(state.o[size_t{row} * dim + i], output_of(before, row, i), 1e-6);
      }
    }
    State without = before;
    kernels().finish(without.view(), 4, dim, nullptr);
    EXPECT_EQ(without.o, state.o);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Merge, testing::ValuesIn(kIsas), isa_test_name);

}  // namespace
}  // namespace quire::test
