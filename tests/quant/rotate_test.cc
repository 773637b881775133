// The rotation against its matrix in f64, and every table against the scalar one, bit for bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "quant/hadamard.h"
#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

// Entry (i, j) of the block Hadamard matrix: the sign is the parity of the bits that i and j share.
double hadamard(uint32_t i, uint32_t j, uint32_t block) {
  if (i / block != j / block) return 0;
  const int sign = std::popcount(i % block & j % block) % 2 == 0 ? 1 : -1;
  return sign / std::sqrt(block);
}

uint32_t largest_block(uint32_t dim) {
  uint32_t block = 1;
  while (dim % (2 * block) == 0) block *= 2;
  return block;
}

std::vector<double> rotate_f64(const float* x, const float* diag, uint32_t dim) {
  std::vector<double> out(dim);
  for (uint32_t i = 0; i < dim; ++i) {
    for (uint32_t j = 0; j < dim; ++j) {
      out[i] += hadamard(i, j, largest_block(dim)) * x[j] * (diag == nullptr ? 1.0 : double{diag[j]});
    }
  }
  return out;
}

std::vector<float> balance(uint32_t dim) {
  std::vector<float> diag(dim);
  for (uint32_t i = 0; i < dim; ++i) diag[i] = std::exp2(static_cast<float>(i % 21) - 10.0F);
  return diag;
}

class Rotate : public PerIsa {};

TEST_P(Rotate, IsTheMatrix) {
  for (uint32_t dim = 32; dim <= 256; dim += 32) {
    const std::vector<float> diag = balance(dim);
    for (const float* d : {static_cast<const float*>(nullptr), diag.data()}) {
      const std::vector<float> x = normal_values(size_t{3} * dim, dim);
      std::vector<float> y(x.size());
      kernels().rotate(x.data(), 3, dim, d, y.data());
      for (size_t row = 0; row < 3; ++row) {
        const std::vector<double> expected = rotate_f64(&x[row * dim], d, dim);
        double norm = 0;
        for (const double value : expected) norm = std::max(norm, std::fabs(value));
        for (uint32_t i = 0; i < dim; ++i) EXPECT_NEAR(y[row * dim + i], expected[i], 1e-5 * norm);
      }
    }
  }
}

TEST_P(Rotate, TwiceIsNothing) {
  for (uint32_t dim = 32; dim <= 256; dim += 32) {
    const std::vector<float> x = normal_values(dim, 1);
    std::vector<float> y = x;
    kernels().rotate(y.data(), 1, dim, nullptr, y.data());
    kernels().rotate(y.data(), 1, dim, nullptr, y.data());
    for (uint32_t i = 0; i < dim; ++i) EXPECT_NEAR(y[i], x[i], 1e-5);
  }
}

TEST_P(Rotate, KeepsEveryFiniteInputFinite) {
  Random random(51);
  for (uint32_t dim = 32; dim <= 256; dim += 32) {
    const std::vector<float> diag(dim, 1024.0F);
    std::vector<float> x(dim);
    for (int round = 0; round < 100; ++round) {
      for (float& value : x) value = round == 0 ? -0x1.FEp127F : random.finite_bf16();
      kernels().rotate(x.data(), 1, dim, diag.data(), x.data());
      EXPECT_TRUE(kernels().finite(x.data(), dim));
      for (const float value : x) EXPECT_LE(std::fabs(value), 0x1p111F);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Rotate, testing::ValuesIn(kIsas), isa_test_name);

class RotateBits : public PerIsa {};

TEST_P(RotateBits, EqualTheScalarOnes) {
  Random random(52);
  for (uint32_t dim = 32; dim <= 256; dim += 32) {
    const std::vector<float> diag = balance(dim);
    for (const size_t rows : {1U, 2U, 3U, 17U}) {
      for (const float* d : {static_cast<const float*>(nullptr), diag.data()}) {
        std::vector<float> x(rows * dim);
        for (float& value : x) value = random.below(8) == 0 ? random.finite_bf16() : random.normal();
        std::vector<float> expected(x.size());
        std::vector<float> elsewhere(x.size());
        find_kernels(Isa::kScalar)->rotate(x.data(), rows, dim, d, expected.data());
        kernels().rotate(x.data(), rows, dim, d, elsewhere.data());
        kernels().rotate(x.data(), rows, dim, d, x.data());
        for (size_t i = 0; i < x.size(); ++i) {
          ASSERT_EQ(std::bit_cast<uint32_t>(elsewhere[i]), std::bit_cast<uint32_t>(expected[i])) << dim;
          ASSERT_EQ(std::bit_cast<uint32_t>(x[i]), std::bit_cast<uint32_t>(expected[i])) << dim;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, RotateBits, testing::ValuesIn(kSimdIsas), isa_test_name);

}  // namespace
}  // namespace quire::test
