// Products of four warps against plain ones, the copies that feed them, and what forgets to wait for either.
#include "quant/cuda/warpgroup.cuh"

#include <cmath>

#include "tests/emu/testing.h"
#include "tests/quant/random.h"

namespace emu::test {
namespace {

using namespace quire::cuda;
using quire::test::Random;

constexpr unsigned kWidth = 32;  // bytes of a row of an operand
constexpr unsigned kColumns = 64;
constexpr uint32_t kStep = kGroupRows * 16;  // of operands whose cores stand behind each other

// Rows of 32 bytes to cores of 8 rows by 16 bytes.
void store_cores(const uint8_t* rows, unsigned count, uint8_t* cores) {
  for (unsigned i = threadIdx.x; i < count * kWidth; i += blockDim.x)
    cores[i % kWidth / 16 * count * 16 + i / kWidth * 16 + i % 16] = rows[i];
}

// PTX manual, "Register Fragments for wgmma.mma_async.m64n*k32": lane l of warp w has rows 16 w + l / 4 and
// + 8, bytes 4 (l % 4) and 16 on, which is the m16n8k32 operand of mma_bytes.
void load_registers(const uint8_t* rows, uint32_t (&a)[4]) {
  const unsigned warp = threadIdx.x / 32 % 4;
  const unsigned lane = threadIdx.x % 32;
  for (unsigned r = 0; r < 4; ++r)
    std::memcpy(&a[r], rows + (16 * warp + lane / 4 + r % 2 * 8) * kWidth + lane % 4 * 4 + r / 2 * 16, 4);
}
unsigned row_of(unsigned k) { return 16 * (threadIdx.x / 32 % 4) + threadIdx.x % 32 / 4 + k / 2 % 2 * 8; }
unsigned column_of(unsigned k) { return k / 4 * 8 + threadIdx.x % 4 * 2 + k % 2; }

template <size_t kSums, bool kWeights>
void multiply(const uint8_t* a, const uint8_t* b, int* out) {
  QUIRE_SHARED(uint8_t[kGroupRows * kWidth], left);
  QUIRE_SHARED(uint8_t[kColumns * kWidth], right);
  constexpr unsigned kCount = kSums * 2;
  store_cores(a, kGroupRows, left);
  store_cores(b, kCount, right);
  publish_to_copies();
  __syncthreads();
  int d[kSums];
  const CoreMatrix columns = core_matrix(right, kCount * 16, 128);
  uint32_t registers[4];
  load_registers(a, registers);
  for (int turn = 0; turn < 2; ++turn) {  // the second is added
    begin_products();
    if constexpr (kWeights) {
      multiply_weights(d, registers, columns, turn > 0);
    } else {
      multiply_bytes(d, core_matrix(left, kStep, 128), columns, turn > 0);
    }
    commit_products();
  }
  await_products<0>(d);
  for (unsigned k = 0; k < kSums; ++k) out[row_of(k) * kCount + column_of(k)] = d[k];
}

void add_halves(const uint8_t* a, const uint8_t* b, float* out) {
  QUIRE_SHARED(uint8_t[kColumns * kWidth], right);
  store_cores(b, kColumns, right);
  __syncthreads();
  uint32_t registers[4];
  load_registers(a, registers);
  float d[32];
  for (float& x : d) x = 1.0F;
  begin_products();
  multiply_means(d, registers, core_matrix(right, kColumns * 16, 128));
  commit_products();
  await_products<0>(d);
  for (unsigned k = 0; k < 32; ++k) out[row_of(k) * kColumns + column_of(k)] = d[k];
}

class Warpgroup : public EmuTest {
 protected:
  static std::vector<uint8_t> bytes(size_t n, uint64_t seed) {
    Random random(seed);
    std::vector<uint8_t> all(n);
    for (uint8_t& byte : all) byte = static_cast<uint8_t>(random.bits());
    return all;
  }
  template <size_t kSums, bool kWeights>
  void expect_product() {
    constexpr size_t kCount = kSums * 2;
    const std::vector<uint8_t> a = bytes(kGroupRows * kWidth, 1);
    const std::vector<uint8_t> b = bytes(kCount * kWidth, 2);
    const DeviceArray<uint8_t> device_a(a);
    const DeviceArray<uint8_t> device_b(b);
    const DeviceArray<int> out(kGroupRows * kCount);
    for_all_schedules([&] {
      ASSERT_EQ(launch({1, kGroupThreads, 0, nullptr}, multiply<kSums, kWeights>, device_a.data(),
                       device_b.data(), out.data()),
                cudaSuccess);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
      const std::vector<int> got = out.host();
      for (size_t row = 0; row < kGroupRows; ++row) {
        for (size_t column = 0; column < kCount; ++column) {
          int sum = 0;
          for (size_t k = 0; k < kWidth; ++k) {
            const uint8_t x = a[row * kWidth + k];
            sum += (kWeights ? int{x} : int{static_cast<int8_t>(x)}) *
                   static_cast<int8_t>(b[column * kWidth + k]);
          }
          ASSERT_EQ(got[row * kCount + column], 2 * sum) << row << ", " << column;
        }
      }
    });
  }
};

TEST_F(Warpgroup, ProductsOfBytes) {
  expect_product<4, false>();
  expect_product<32, false>();
  expect_product<32, true>();
}

TEST_F(Warpgroup, ProductsOfBf16) {
  Random random(3);
  const auto halves = [&](size_t n) {
    std::vector<uint16_t> all(n);
    for (uint16_t& x : all) x = __bfloat16_as_ushort(__float2bfloat16_rn(random.normal()));
    return all;
  };
  const auto value = [](uint16_t bits) { return double{__bfloat162float(__ushort_as_bfloat16(bits))}; };
  const std::vector<uint16_t> a = halves(kGroupRows * kWidth / 2);
  const std::vector<uint16_t> b = halves(kColumns * kWidth / 2);
  const DeviceArray<uint16_t> device_a(a);
  const DeviceArray<uint16_t> device_b(b);
  const DeviceArray<float> out(kGroupRows * kColumns);
  ASSERT_EQ(
      launch({1, kGroupThreads, 0, nullptr}, add_halves, reinterpret_cast<const uint8_t*>(device_a.data()),
             reinterpret_cast<const uint8_t*>(device_b.data()), out.data()),
      cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
  const std::vector<float> got = out.host();
  for (size_t row = 0; row < kGroupRows; ++row) {
    for (size_t column = 0; column < kColumns; ++column) {
      double sum = 1;
      for (size_t k = 0; k < kWidth / 2; ++k)
        sum += value(a[row * kWidth / 2 + k]) * value(b[column * kWidth / 2 + k]);
      ASSERT_NEAR(got[row * kColumns + column], sum, 1e-4);
    }
  }
}

// ---- mistakes ----

void sums_before_the_wait(float* out) {
  QUIRE_SHARED(uint8_t[kColumns * kWidth], right);
  for (unsigned i = threadIdx.x; i < kColumns * kWidth; i += blockDim.x) right[i] = 1;
  __syncthreads();
  const uint32_t ones[4] = {0x01010101U, 0x01010101U, 0x01010101U, 0x01010101U};
  int d[32];
  begin_products();
  multiply_weights(d, ones, core_matrix(right, kColumns * 16, 128), false);
  commit_products();
  const int early = d[0];
  await_products<0>(d);
  out[threadIdx.x] = static_cast<float>(early);
  out[512 + threadIdx.x] = static_cast<float>(d[0]);
}
TEST_F(Warpgroup, SumsReadBeforeTheWaitAreWrong) {
  const DeviceArray<float> out(std::vector<float>(1024));
  ASSERT_EQ(launch({1, kGroupThreads, 0, nullptr}, sums_before_the_wait, out.data()), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
  EXPECT_NE(out.host()[5], 32.0F);
  EXPECT_EQ(out.host()[517], 32.0F);
}

constexpr unsigned kParts = 7;
constexpr unsigned kPart = 64;  // floats
constexpr unsigned kRing = 2;

// One warp copies parts to a ring of two slots, another adds them up.
template <bool kAwaitFull, bool kAwaitEmpty>
void through_a_ring(const float* in, float* out) {
  QUIRE_SHARED(float[kRing * kPart], slots);
  QUIRE_SHARED(CopyBarrier[2 * kRing], barriers);
  if (threadIdx.x < kRing) {
    init_barrier(barriers + threadIdx.x, 1);
    init_barrier(barriers + kRing + threadIdx.x, 1);
  }
  publish_to_copies();
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned part = 0; part < kParts; ++part) {
      if (kAwaitEmpty && part >= kRing) await(barriers + kRing + part % kRing, (part / kRing - 1) % 2);
      arrive_expecting(barriers + part % kRing, kPart * sizeof(float));
      copy_bulk(slots + part % kRing * kPart, in + part * kPart, kPart * sizeof(float),
                barriers + part % kRing);
    }
  }
  if (threadIdx.x < 32) return;
  float sum = 0;
  for (unsigned part = 0; part < kParts; ++part) {
    if (kAwaitFull) await(barriers + part % kRing, part / kRing % 2);
    for (unsigned i = threadIdx.x % 32; i < kPart; i += 32) sum += slots[part % kRing * kPart + i];
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(barriers + kRing + part % kRing);
  }
  out[threadIdx.x % 32] = sum;
}

class CopyRing : public EmuTest {
 protected:
  using Kernel = void (*)(const float*, float*);
  // Under how many schedules the sums are right.
  int right(Kernel kernel) {
    std::vector<float> in(size_t{kParts} * kPart);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 11);
    std::vector<float> sums(32);
    for (size_t i = 0; i < in.size(); ++i) sums[i % 32] += in[i];
    const DeviceArray<float> device_in(in);
    int count = 0;
    for_all_schedules([&] {
      const DeviceArray<float> out(std::vector<float>(32));
      EXPECT_EQ(launch({1, 64, 0, nullptr}, kernel, static_cast<const float*>(device_in.data()), out.data()),
                cudaSuccess);
      if (cudaDeviceSynchronize() == cudaSuccess && out.host() == sums) ++count;
      reset_errors();
    });
    return count;
  }
};

TEST_F(CopyRing, BringsEveryPart) {
  EXPECT_EQ(right(through_a_ring<true, true>), static_cast<int>(kSchedules.size()));
}
#if !defined(__SANITIZE_THREAD__)  // which sees the race
TEST_F(CopyRing, WhatDoesNotWaitForCopiesIsAlwaysWrong) { EXPECT_EQ(right(through_a_ring<false, true>), 0); }
#endif
TEST_F(CopyRing, CopiesOverWhatIsReadAreSeen) {
  EXPECT_LT(right(through_a_ring<true, false>), static_cast<int>(kSchedules.size()));
}

void awaits_nothing(float* out) {
  QUIRE_SHARED(CopyBarrier[1], barrier);
  init_barrier(barrier, 1);
  await(barrier, 0);
  out[0] = 1;
}
void arrives_twice(float* out) {
  QUIRE_SHARED(CopyBarrier[1], barrier);
  QUIRE_SHARED(float[4], slot);
  init_barrier(barrier, 1);
  arrive_expecting(barrier, 16);
  arrive(barrier);
  out[0] = slot[0];
}
void copies_more_than_announced(float* out) {
  QUIRE_SHARED(CopyBarrier[1], barrier);
  QUIRE_SHARED(float[8], slot);
  init_barrier(barrier, 1);
  arrive_expecting(barrier, 16);
  copy_bulk(slot, out, 32, barrier);
}
void arrives_at_nothing(float* out) {
  QUIRE_SHARED(CopyBarrier[1], barrier);
  arrive(barrier);
  out[0] = 1;
}

TEST_F(Warpgroup, MistakesWithBarriersAreNamed) {
  struct Mistake {
    void (*kernel)(float*);
    const char* why;
  };
  for (const Mistake& mistake : {Mistake{awaits_nothing, "mbarrier.try_wait"},
                                 Mistake{arrives_twice, "more threads arrive in a phase than it counts"},
                                 Mistake{copies_more_than_announced, "32 bytes in a phase that expects 16"},
                                 Mistake{arrives_at_nothing, "it was not initialized"}}) {
    const DeviceArray<float> out(std::vector<float>(32));
    EXPECT_EQ(launch({1, 1, 0, nullptr}, mistake.kernel, out.data()), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    EXPECT_NE(last_failure().find(mistake.why), std::string::npos) << last_failure();
    reset_errors();
  }
}

}  // namespace
}  // namespace emu::test
