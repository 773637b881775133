// Partials merged in one go, and onto what was merged before, against f64.
#include <cmath>

#include "tests/cuda/support.h"

namespace quire::cuda::test {
namespace {

constexpr uint32_t kHeads = 2;
constexpr uint32_t kRows = 9;
constexpr uint32_t kDim = 64;
constexpr double kError = 1e-6;

// Partials [kHeads][count][kRows] as attention leaves them: m in log2 units, o not divided by l.
struct Partials {
  Partials(uint32_t partials, uint64_t seed) : count(partials), m(size_t{kHeads} * count * kRows) {
    quire::test::Random random(seed);
    for (float& x : m) x = 8.0F * static_cast<float>(random.normal());
    l.assign(m.size(), 0.0F);
    for (float& x : l) x = 1.0F + std::abs(static_cast<float>(random.normal()));
    o.assign(m.size() * kDim, 0.0F);
    for (float& x : o) x = static_cast<float>(random.normal());
  }
  size_t at(uint32_t head, uint32_t partial, uint32_t row) const {
    return (size_t{head} * count + partial) * kRows + row;
  }
  // Those of a row saw nothing.
  void empty(uint32_t row) {
    for (uint32_t head = 0; head < kHeads; ++head) {
      for (uint32_t p = 0; p < count; ++p) {
        m[at(head, p, row)] = -INFINITY;
        l[at(head, p, row)] = 0.0F;
        std::fill_n(o.begin() + static_cast<ptrdiff_t>(at(head, p, row) * kDim), kDim, 0.0F);
      }
    }
  }

  uint32_t count;
  std::vector<float> m;
  std::vector<float> l;
  std::vector<float> o;
};

void expect_merged(std::span<const Partials> waves, const std::vector<float>& out,
                   const std::vector<float>& lse) {
  for (uint32_t head = 0; head < kHeads; ++head) {
    for (uint32_t row = 0; row < kRows; ++row) {
      double sum = 0;
      std::vector<double> o(kDim, 0.0);
      for (const Partials& wave : waves) {
        for (uint32_t p = 0; p < wave.count; ++p) {
          const size_t at = wave.at(head, p, row);
          const double weight = std::exp2(double{wave.m[at]});
          sum += weight * wave.l[at];
          for (uint32_t c = 0; c < kDim; ++c) o[c] += weight * wave.o[at * kDim + c];
        }
      }
      const size_t at = size_t{head} * kRows + row;
      if (sum == 0) {
        EXPECT_EQ(lse[at], -INFINITY) << "row " << row;
      } else {
        EXPECT_NEAR(lse[at], std::log(sum), 1e-5) << "row " << row;
      }
      for (uint32_t c = 0; c < kDim; ++c) {
        const double expected = sum == 0 ? 0 : o[c] / sum;
        ASSERT_NEAR(out[at * kDim + c], expected, kError * (1 + std::abs(expected))) << "row " << row;
      }
    }
  }
}

TEST(CudaMerge, WavesAddToWhatEarlierOnesLeft) {
  for (const uint32_t count : {1U, 4U, 5U, 70U}) {
    SCOPED_TRACE(std::to_string(count) + " partials");
    std::vector<Partials> waves{{count, 1}, {count, 2}, {3, 3}};
    waves[0].empty(2);
    waves[1].empty(4);
    for (Partials& wave : waves) wave.empty(7);
    // What stood there before the first wave must not matter.
    const DeviceArray<float> out(std::vector<float>(size_t{kHeads} * kRows * kDim, NAN));
    const DeviceArray<float> lse(std::vector<float>(size_t{kHeads} * kRows, 1.0F));
    for (size_t i = 0; i < waves.size(); ++i) {
      const DeviceArray<float> o(waves[i].o);
      const DeviceArray<float> m(waves[i].m);
      const DeviceArray<float> l(waves[i].l);
      expect_ran(merge_partials({{o.data(), m.data(), l.data()},
                                 waves[i].count,
                                 kHeads,
                                 kRows,
                                 kDim,
                                 out.data(),
                                 lse.data(),
                                 i > 0},
                                nullptr));
      expect_merged(std::span(waves).first(i + 1), out.host(), lse.host());
    }
  }
}

}  // namespace
}  // namespace quire::cuda::test
