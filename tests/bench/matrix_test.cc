#include "bench/qwen3/matrix.h"

#include <gtest/gtest.h>

#include <cmath>

#include "bench/qwen3/float16.h"
#include "bench/qwen3/random.h"

namespace quire::qwen3 {
namespace {

Matrix random_matrix(uint32_t rows, uint32_t cols, Random& random) {
  Matrix w{rows, cols, std::vector<uint16_t>(size_t{rows} * cols)};
  for (uint16_t& value : w.values) value = f32_to_bf16(static_cast<float>(random.uniform() - 0.5));
  return w;
}

std::vector<float> random_rows(size_t n, Random& random) {
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.uniform() - 0.5);
  return x;
}

class MatrixTest : public ::testing::Test {
 protected:
  Random random_{1};
};

TEST_F(MatrixTest, ProductsMatchF64) {
  ThreadPool pool(2);
  for (const auto& [m, n, k] : std::vector<std::array<uint32_t, 3>>{
           {1, 1, 1}, {1, 300, 96}, {1, 5000, 65}, {2, 129, 100}, {257, 130, 64}, {512, 256, 640}}) {
    const Matrix w = random_matrix(n, k, random_);
    const std::vector<float> x = random_rows(size_t{m} * k, random_);
    std::vector<float> y(size_t{m} * n);
    multiply(pool, w, x, m, y);
    for (uint32_t i = 0; i < m; i += 7) {
      for (uint32_t j = 0; j < n; ++j) {
        double expected = 0;
        for (uint32_t c = 0; c < k; ++c) {
          expected += double{x[size_t{i} * k + c]} * bf16_to_f32(w.values[size_t{j} * k + c]);
        }
        ASSERT_NEAR(y[size_t{i} * n + j], expected, 1e-6 * std::sqrt(k) + 1e-6) << m << " " << n << " " << k;
      }
    }
  }
}

TEST_F(MatrixTest, BitsDoNotDependOnTheNumberOfThreads) {
  const Matrix w = random_matrix(1100, 256, random_);
  for (const uint32_t m : {1u, 100u, 512u}) {
    const std::vector<float> x = random_rows(size_t{m} * 256, random_);
    std::vector<float> first(size_t{m} * 1100);
    ThreadPool alone(1);
    multiply(alone, w, x, m, first);
    for (const uint32_t threads : {2, 3, 5}) {
      ThreadPool pool(threads);
      std::vector<float> y(first.size());
      multiply(pool, w, x, m, y);
      EXPECT_EQ(y, first) << threads << " threads, " << m << " rows";
    }
  }
}

TEST_F(MatrixTest, RunsRepeatTheBitsOfTheirRecordedShape) {
  ThreadPool pool(2);
  const Matrix w = random_matrix(200, 128, random_);
  // Rows 30..99 of a product of 100, one of one row, and the first 5 of a product of 300.
  const std::vector<ProductRows> runs{{70, 30, 100}, {1, 0, 1}, {5, 0, 300}};
  std::vector<float> x;
  std::vector<float> expected;
  for (const ProductRows& run : runs) {
    const std::vector<float> whole_x = random_rows(size_t{run.rows} * 128, random_);
    std::vector<float> whole_y(size_t{run.rows} * 200);
    multiply(pool, w, whole_x, run.rows, whole_y);
    const auto part = [&](const std::vector<float>& v, size_t width) {
      return std::span(v).subspan(run.first * width, run.count * width);
    };
    x.insert(x.end(), part(whole_x, 128).begin(), part(whole_x, 128).end());
    expected.insert(expected.end(), part(whole_y, 200).begin(), part(whole_y, 200).end());
  }
  std::vector<float> y(expected.size());
  multiply(pool, w, x, runs, y);
  EXPECT_EQ(y, expected);
}

}  // namespace
}  // namespace quire::qwen3
