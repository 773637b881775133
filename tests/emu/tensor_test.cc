// Matrix instructions against plain matrix products, over fragments cut by the PTX manual's formulas.
#include <cmath>

#include "tests/emu/testing.h"
#include "tests/quant/random.h"

namespace emu::test {
namespace {

using namespace quire::cuda;
using quire::test::Random;

struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
};
struct Result {
  int bytes[4];
  float halves[4];
};

template <typename A, typename B>
void multiply(const Fragments* in, const int* c, Result* out) {
  const Fragments& mine = in[threadIdx.x];
  Result& result = out[threadIdx.x];
  for (int r = 0; r < 4; ++r) {
    result.bytes[r] = c[4 * threadIdx.x + static_cast<unsigned>(r)];
    result.halves[r] = static_cast<float>(r);
  }
  mma_bytes(A{}, B{}, result.bytes, mine.a, mine.b);
  mma_bf16(result.halves, mine.a, mine.b);
}

class Tensor : public EmuTest {
 protected:
  static int byte_at(uint32_t word, size_t i, bool is_signed) {
    const auto bits = static_cast<uint8_t>(word >> (8 * i));
    return is_signed ? static_cast<int8_t>(bits) : static_cast<int>(bits);
  }

  // PTX manual, "Matrix Fragments for mma.m16n8k32": element (row, k) of A stands in register r, byte i of
  // lane.
  static int a_at(const std::vector<Fragments>& in, size_t row, size_t k, bool is_signed) {
    const size_t lane = row % 8 * 4 + k % 16 / 4;
    return byte_at(in[lane].a[row / 8 + k / 16 * 2], k % 4, is_signed);
  }
  static int b_at(const std::vector<Fragments>& in, size_t k, size_t column, bool is_signed) {
    return byte_at(in[column * 4 + k % 16 / 4].b[k / 16], k % 4, is_signed);
  }

  template <typename A, typename B>
  void expect_product(bool a_signed, bool b_signed) {
    Random random(9);
    std::vector<Fragments> in(32);
    std::vector<int> c(128);
    for (Fragments& lane : in) {
      for (uint32_t& word : lane.a) word = static_cast<uint32_t>(random.bits()) & 0xBFFFBFFFU;
      for (uint32_t& word : lane.b) word = static_cast<uint32_t>(random.bits()) & 0xBFFFBFFFU;
    }
    for (int& value : c) value = static_cast<int>(random.below(2000)) - 1000;
    const DeviceArray<Fragments> device_in(in);
    const DeviceArray<int> device_c(c);
    const DeviceArray<Result> out(32);
    const auto* fragments = static_cast<const Fragments*>(device_in.data());
    const auto* start = static_cast<const int*>(device_c.data());
    ASSERT_EQ(launch({1, 32, 0, nullptr}, multiply<A, B>, fragments, start, out.data()), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
    const std::vector<Result> results = out.host();
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        const size_t lane = row % 8 * 4 + column / 2;
        const size_t r = row / 8 * 2 + column % 2;
        int sum = c[4 * lane + r];
        for (size_t k = 0; k < 32; ++k) sum += a_at(in, row, k, a_signed) * b_at(in, k, column, b_signed);
        ASSERT_EQ(results[lane].bytes[r], sum) << row << ", " << column;
      }
    }
  }
};

TEST_F(Tensor, ByteProductsOfEverySign) {
  expect_product<SignedBytes, SignedBytes>(true, true);
  expect_product<SignedBytes, UnsignedBytes>(true, false);
  expect_product<UnsignedBytes, SignedBytes>(false, true);
  expect_product<UnsignedBytes, UnsignedBytes>(false, false);
}

// d = r + a b, r the index of the register.
void multiply_f16(const Fragments* in, const int* /*c*/, Result* out) {
  const Fragments& mine = in[threadIdx.x];
  float(&d)[4] = out[threadIdx.x].halves;
  for (int r = 0; r < 4; ++r) d[r] = static_cast<float>(r);
  mma_halves(d, mine.a, mine.b, false, Site::current());
}

// What 16 bits stand for, and the kernel that multiplies them.
struct HalfFormat {
  uint32_t (*bits_of)(float);
  float (*rounded)(float);
  void (*kernel)(const Fragments*, const int*, Result*);
};
constexpr HalfFormat kBf16{
    [](float value) { return uint32_t{__bfloat16_as_ushort(__float2bfloat16_rn(value))}; },
    [](float value) { return __bfloat162float(__float2bfloat16_rn(value)); },
    multiply<SignedBytes, SignedBytes>};
constexpr HalfFormat kF16{[](float value) { return uint32_t{__half_as_ushort(__float2half_rn(value))}; },
                          [](float value) { return __half2float(__float2half_rn(value)); }, multiply_f16};

using Matrix = std::vector<std::vector<float>>;

Matrix random_matrix(Random& random, size_t rows, size_t columns, const HalfFormat& format) {
  Matrix matrix(rows, std::vector<float>(columns));
  for (auto& row : matrix) {
    for (float& value : row) value = format.rounded(random.normal());
  }
  return matrix;
}

// PTX manual, "Matrix Fragments for mma.m16n8k16": A's registers hold rows g, g + 8, g, g + 8 and columns
// 2t, 2t, 2t + 8, 2t + 8 with g = lane / 4, t = lane % 4.
std::vector<Fragments> fragments_of(const Matrix& a, const Matrix& b, const HalfFormat& format) {
  std::vector<Fragments> in(32);
  for (size_t lane = 0; lane < 32; ++lane) {
    const size_t g = lane / 4;
    const size_t t = lane % 4;
    for (size_t r = 0; r < 4; ++r) {
      const std::vector<float>& row = a[g + r % 2 * 8];
      const size_t k = 2 * t + r / 2 * 8;
      in[lane].a[r] = format.bits_of(row[k]) | format.bits_of(row[k + 1]) << 16;
    }
    for (size_t r = 0; r < 2; ++r) {
      const size_t k = 2 * t + r * 8;
      in[lane].b[r] = format.bits_of(b[k][g]) | format.bits_of(b[k + 1][g]) << 16;
    }
  }
  return in;
}

void expect_product_of_halves(const HalfFormat& format) {
  Random random(10);
  const Matrix a = random_matrix(random, 16, 16, format);
  const Matrix b = random_matrix(random, 16, 8, format);
  const DeviceArray<Fragments> device_in(fragments_of(a, b, format));
  const DeviceArray<int> c(std::vector<int>(128));
  const DeviceArray<Result> out(32);
  const auto* fragments = static_cast<const Fragments*>(device_in.data());
  const auto* start = static_cast<const int*>(c.data());
  ASSERT_EQ(launch({1, 32, 0, nullptr}, format.kernel, fragments, start, out.data()), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
  const std::vector<Result> results = out.host();
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      const size_t r = row / 8 * 2 + column % 2;
      double sum = static_cast<double>(r);
      for (size_t k = 0; k < 16; ++k) sum += double{a[row][k]} * double{b[k][column]};
      ASSERT_NEAR(results[row % 8 * 4 + column / 2].halves[r], sum, 1e-5);
    }
  }
}

TEST_F(Tensor, Bf16Products) { expect_product_of_halves(kBf16); }
TEST_F(Tensor, F16Products) { expect_product_of_halves(kF16); }

void load_and_store(const uint32_t* in, uint32_t* out) {
  QUIRE_SHARED(uint4[32], rows);
  rows[threadIdx.x] = load_as<uint4>(in + 4 * threadIdx.x);
  __syncwarp();
  uint32_t r[4];
  load_matrices(r, &rows[threadIdx.x], Site::current());
  for (unsigned i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = r[i];
}

TEST_F(Tensor, LdmatrixDealsOutRows) {
  std::vector<uint32_t> in(128);
  for (uint32_t i = 0; i < 128; ++i) in[i] = i;
  const DeviceArray<uint32_t> device_in(in);
  const DeviceArray<uint32_t> out(128);
  const auto* words = static_cast<const uint32_t*>(device_in.data());
  ASSERT_EQ(launch({1, 32, 0, nullptr}, load_and_store, words, out.data()), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
  const std::vector<uint32_t> got = out.host();
  // Register m of lane l: row l / 4 of matrix m, its 32-bit word l % 4; lane m * 8 + row gave that row.
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) EXPECT_EQ(got[4 * lane + m], 4 * (8 * m + lane / 4) + lane % 4);
  }
}

}  // namespace
}  // namespace emu::test
