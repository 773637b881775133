// Kernels with one mistake each: every one must be diagnosed, in words that name it, and none may hang. Those
// that only a sanitizer can see are tested in its build; correct twins show that nothing else is reported.
#include "tests/emu/testing.h"

namespace emu::test {
namespace {

using quire::cuda::copy_async16;
using quire::cuda::copy_async_commit;
using quire::cuda::copy_async_wait;
using quire::cuda::load_as;
using quire::cuda::Smem;

constexpr unsigned kAll = 0xFFFFFFFFU;

class PlantedBug : public EmuTest {
 protected:
  using Kernel = void (*)(float*);

  // Runs to its end or failure; the output afterwards.
  std::vector<float> run(Kernel kernel, unsigned threads, size_t shared_bytes = 0, unsigned blocks = 1) {
    const DeviceArray<float> out(std::vector<float>(1024));
    EXPECT_EQ(launch({blocks, threads, shared_bytes, nullptr}, kernel, out.data()), cudaSuccess);
    error_ = cudaDeviceSynchronize();
    std::vector<float> values(1024);
    if (error_ == cudaSuccess) values = out.host();
    return values;
  }

  void expect_failure(Kernel kernel, unsigned threads, const std::string& why, size_t shared_bytes = 0) {
    for_all_schedules([&] {
      run(kernel, threads, shared_bytes);
      EXPECT_EQ(error_, cudaErrorLaunchFailure);
      EXPECT_NE(last_failure().find(why), std::string::npos) << "the reason was: " << last_failure();
      EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure) << "a failed kernel is a sticky error";
      reset_errors();
    });
  }

  cudaError_t error_ = cudaSuccess;
};

void divergent_barrier(float* out) {
  if (threadIdx.x < 64) {
    out[threadIdx.x] = 1;
    __syncthreads();
  } else {
    out[threadIdx.x] = 2;
    __syncthreads();
  }
}
TEST_F(PlantedBug, DivergentBarrier) { expect_failure(divergent_barrier, 128, "divergent barrier"); }

void two_barriers_on_a_line(float* out) {
  // clang-format off
  if (threadIdx.x < 64) __syncthreads(); else __syncthreads();
  // clang-format on
  out[threadIdx.x] = 1;
}
TEST_F(PlantedBug, DivergentBarrierOfOneLine) {
  expect_failure(two_barriers_on_a_line, 128, "divergent barrier");
}

void barrier_against_shuffle(float* out) {
  if (threadIdx.x % 32 < 16) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  out[threadIdx.x] = 2;
}
TEST_F(PlantedBug, DeadlockOfBarrierAndWarp) { expect_failure(barrier_against_shuffle, 64, "deadlock"); }

void return_before_barrier(float* out) {
  if (threadIdx.x >= 100) return;
  out[threadIdx.x] = 1;
  __syncthreads();
}
TEST_F(PlantedBug, ReturnBeforeABarrier) { expect_failure(return_before_barrier, 128, "have ended"); }

void return_before_shuffle(float* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_xor_sync(kAll, 1.0F, 1);
}
TEST_F(PlantedBug, ReturnBeforeAShuffle) { expect_failure(return_before_shuffle, 32, "ended"); }

void divergent_shuffle(float* out) {
  float value = 0;
  if (threadIdx.x % 2 == 1) {
    value = __shfl_sync(kAll, 1.0F, 0);
  } else {
    value = __shfl_sync(kAll, 2.0F, 0);
  }
  out[threadIdx.x] = value;
}
TEST_F(PlantedBug, DivergentShuffle) { expect_failure(divergent_shuffle, 32, "warp divergence"); }

void shuffle_from_outside_the_mask(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000FFFFU, 1.0F, 20);
}
TEST_F(PlantedBug, ShuffleFromOutsideTheMask) {
  expect_failure(shuffle_from_outside_the_mask, 32, "not in mask");
}

void half_a_warp(float* out) { out[threadIdx.x] = __shfl_sync(kAll, 1.0F, 0); }
TEST_F(PlantedBug, MaskNamesLanesThatNeverWere) { expect_failure(half_a_warp, 16, "never were"); }

void misaligned_vector(float* out) { out[0] = load_as<float4>(out + 1).x; }
TEST_F(PlantedBug, MisalignedVectorLoad) { expect_failure(misaligned_vector, 1, "multiple of 16"); }

void more_shared_than_launched(float* out) {
  Smem shared;
  float* part = shared.take<float>(64);
  part[threadIdx.x] = 1;
  out[threadIdx.x] = part[threadIdx.x];
}
TEST_F(PlantedBug, MoreSharedMemoryThanTheLaunchAskedFor) {
  expect_failure(more_shared_than_launched, 32, "dynamic shared memory", 128);
}

void too_much_static_shared(float* out) {
  QUIRE_SHARED(float[16 * 1024], part);
  part[threadIdx.x] = 1;
  out[threadIdx.x] = part[threadIdx.x];
}
TEST_F(PlantedBug, StaticSharedMemoryBeyond48KiB) {
  expect_failure(too_much_static_shared, 32, "static shared memory");
}

void copy_to_global(float* out) { copy_async16(out, out + 32); }
TEST_F(PlantedBug, AsyncCopyToGlobalMemory) { expect_failure(copy_to_global, 1, "no shared memory"); }

// Those that show in what comes out.

void missing_barrier(float* out) {
  QUIRE_SHARED(float[128], sums);
  const unsigned t = threadIdx.x;
  sums[t] = static_cast<float>(t);
  __syncthreads();
  for (unsigned half = 64; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];
  }
  if (t == 0) out[0] = sums[0];
}
void with_barriers(float* out) {
  QUIRE_SHARED(float[128], sums);
  const unsigned t = threadIdx.x;
  sums[t] = static_cast<float>(t);
  __syncthreads();
  for (unsigned half = 64; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];
    __syncthreads();
  }
  if (t == 0) out[0] = sums[0];
}

#if !defined(__SANITIZE_THREAD__)
TEST_F(PlantedBug, MissingBarrierGivesAWrongSumUnderSomeSchedule) {
  unsigned wrong = 0;
  for_all_schedules([&] { wrong += run(missing_barrier, 128)[0] != 8128.0F ? 1U : 0U; });
  EXPECT_GT(wrong, 0U);
}
#endif
TEST_F(PlantedBug, WithItsBarriersTheSumIsRight) {
  for_all_schedules([&] { EXPECT_EQ(run(with_barriers, 128)[0], 8128.0F); });
}

void read_before_write(float* out) {
  QUIRE_SHARED(float[32], part);
  if (threadIdx.x < 31) part[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = part[threadIdx.x];
}
TEST_F(PlantedBug, UnwrittenSharedMemoryIsNaN) {
  const std::vector<float> out = run(read_before_write, 32);
  EXPECT_EQ(out[30], 1.0F);
  EXPECT_TRUE(std::isnan(out[31]));
}

template <bool kWaits>
void async_copy(float* out) {
  QUIRE_SHARED(float[128], part);
  copy_async16(part + 4 * threadIdx.x, out + 4 * threadIdx.x);
  copy_async_commit();
  if (kWaits) copy_async_wait<0>();
  __syncwarp();
  out[threadIdx.x] = part[threadIdx.x] + 5;
}
TEST_F(PlantedBug, AsyncCopyThatIsNotWaitedForIsNaN) {
  EXPECT_TRUE(std::isnan(run(async_copy<false>, 32)[3]));
  EXPECT_EQ(run(async_copy<true>, 32)[3], 5.0F);
}

TEST_F(PlantedBug, LaunchesTheDeviceRefuses) {
  const DeviceArray<float> out(32);
  EXPECT_EQ(launch({1, 2048, 0, nullptr}, with_barriers, out.data()), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch({1, 0, 0, nullptr}, with_barriers, out.data()), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch({dim3(1, 65536), 32, 0, nullptr}, with_barriers, out.data()),
            cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch({1, 32, size_t{100} * 1024, nullptr}, with_barriers, out.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidValue);
}

TEST_F(PlantedBug, MoreThan48KiBNeedOptIn) {
  const DeviceArray<float> out(32);
  const auto* function = reinterpret_cast<const void*>(&return_before_barrier);
  const auto direct = [&](size_t bytes) {
    return static_cast<cudaError_t>(launch_kernel(1, 32, bytes, nullptr, function, [] {}));
  };
  EXPECT_EQ(direct(48 * 1024), cudaSuccess);
  EXPECT_EQ(direct(48 * 1024 + 1), cudaErrorInvalidValue);
  ASSERT_EQ(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024),
            cudaSuccess);
  EXPECT_EQ(direct(64 * 1024), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void write_beyond_the_end(float* out) { out[1024 + threadIdx.x] = 1.0F; }
TEST_F(PlantedBug, WritingBeyondAnAllocationMeetsAGuardPage) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(run(write_beyond_the_end, 1), testing::KilledBySignal(SIGSEGV), "");
}
TEST_F(PlantedBug, TheHostCannotTouchDeviceMemory) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const DeviceArray<float> out(32);
  EXPECT_EXIT(out.data()[0] = 1.0F, testing::KilledBySignal(SIGSEGV), "");
}
#endif

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer's report and exit code.
void overrun_static(float* out) {
  QUIRE_SHARED(float[32], part);
  QUIRE_SHARED(float[32], other);
  other[threadIdx.x] = 1;
  part[threadIdx.x + (threadIdx.x == 31 ? 1 : 0)] = 2;
  __syncwarp();
  out[threadIdx.x] = part[0] + other[threadIdx.x];
}
void overrun_dynamic(float* out) {
  Smem shared;
  float* part = shared.take<float>(32);
  float* other = shared.take<float>(32);
  other[threadIdx.x] = 1;
  part[threadIdx.x + (threadIdx.x == 31 ? 1 : 0)] = 2;
  __syncwarp();
  out[threadIdx.x] = part[0] + other[threadIdx.x];
}
void overrun_global(float* out) { out[1024] = 1.0F; }

TEST_F(PlantedBug, OverrunsThatAddressSanitizerSees) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(run(overrun_static, 32), "out of bounds");
  EXPECT_DEATH(run(overrun_dynamic, 32, 256), "heap-buffer-overflow");
  EXPECT_DEATH(run(overrun_global, 1), "AddressSanitizer");
}
#endif

#if defined(__SANITIZE_THREAD__)
template <bool kFenced>
void neighbour(float* out) {
  QUIRE_SHARED(float[32], part);
  part[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kFenced) __syncwarp();
  out[threadIdx.x] = part[threadIdx.x ^ 1U];
}
void shuffle_is_no_fence(float* out) {
  QUIRE_SHARED(float[32], part);
  part[threadIdx.x] = static_cast<float>(threadIdx.x);
  const float other = __shfl_xor_sync(kAll, 0.0F, 1);
  out[threadIdx.x] = part[threadIdx.x ^ 1U] + other;
}
void race_of_blocks(float* out) { out[0] += static_cast<float>(blockIdx.x + 1); }

int exit_code_of_a_race() { return 66; }  // ThreadSanitizer's default

TEST_F(PlantedBug, RacesThatThreadSanitizerSees) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto race = testing::ExitedWithCode(exit_code_of_a_race());
  EXPECT_EXIT((run(missing_barrier, 128), std::exit(0)), race, "data race");
  EXPECT_EXIT((run(neighbour<false>, 32), std::exit(0)), race, "data race");
  EXPECT_EXIT((run(shuffle_is_no_fence, 32), std::exit(0)), race, "data race");
  EXPECT_EXIT((run(race_of_blocks, 1, 0, 2), std::exit(0)), race, "data race");
  EXPECT_EXIT((run(neighbour<true>, 32), std::exit(0)), testing::ExitedWithCode(0), "");
  EXPECT_EXIT((run(with_barriers, 128), std::exit(0)), testing::ExitedWithCode(0), "");
}
#endif

}  // namespace
}  // namespace emu::test
