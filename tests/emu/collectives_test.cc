// Barriers, votes, shuffles and atomics against what the CUDA programming guide says they do.
#include "tests/emu/testing.h"

namespace emu::test {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFU;

class Collectives : public EmuTest {
 protected:
  template <typename T>
  std::vector<T> run(void (*kernel)(T*), unsigned threads, dim3 grid = 1) {
    const DeviceArray<T> out(std::vector<T>(4096));
    EXPECT_EQ(launch({grid, threads, 0, nullptr}, kernel, out.data()), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
    return out.host();
  }
};

void all_shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int* mine = out + 8 * threadIdx.x;
  mine[0] = __shfl_sync(kAll, lane, 7);
  mine[1] = __shfl_xor_sync(kAll, lane, 5);
  mine[2] = __shfl_down_sync(kAll, lane, 3);
  mine[3] = __shfl_up_sync(kAll, lane, 3);
  mine[4] = __shfl_sync(kAll, lane, 9, 8);
  mine[5] = __shfl_xor_sync(kAll, lane, 8, 8);
  mine[6] = __shfl_down_sync(kAll, lane, 3, 8);
  mine[7] = __shfl_up_sync(kAll, lane, 3, 8);
}

TEST_F(Collectives, ShufflesMoveWhatTheGuideSays) {
  for_all_schedules([&] {
    const std::vector<int> out = run(all_shuffles, 64);
    for (int t = 0; t < 64; ++t) {
      const int l = t % 32;
      const int* mine = out.data() + 8 * t;
      EXPECT_EQ(mine[0], 7);
      EXPECT_EQ(mine[1], l ^ 5);
      EXPECT_EQ(mine[2], l + 3 < 32 ? l + 3 : l);
      EXPECT_EQ(mine[3], l >= 3 ? l - 3 : l);
      EXPECT_EQ(mine[4], l / 8 * 8 + 1);
      // Earlier segments can be read, later ones cannot.
      EXPECT_EQ(mine[5], (l ^ 8) < l ? l ^ 8 : l);
      EXPECT_EQ(mine[6], l % 8 + 3 < 8 ? l + 3 : l);
      EXPECT_EQ(mine[7], l % 8 >= 3 ? l - 3 : l);
    }
  });
}

void votes(int* out) {
  const int odd = static_cast<int>(threadIdx.x % 2);
  int* mine = out + 8 * threadIdx.x;
  mine[0] = static_cast<int>(__ballot_sync(kAll, odd));
  mine[1] = __any_sync(kAll, threadIdx.x == 40 ? 1 : 0);
  mine[2] = __all_sync(kAll, threadIdx.x < 32 ? 1 : 0);
  mine[3] = __syncthreads_count(odd);
  mine[4] = __syncthreads_and(1);
  mine[5] = __syncthreads_or(threadIdx.x == 3 ? 1 : 0);
  mine[6] = __reduce_add_sync(kAll, static_cast<int>(threadIdx.x));
  mine[7] = __reduce_max_sync(kAll, -static_cast<int>(threadIdx.x));
}

TEST_F(Collectives, VotesAndReductions) {
  for_all_schedules([&] {
    const std::vector<int> out = run(votes, 64);
    for (int t = 0; t < 64; ++t) {
      const int* mine = out.data() + 8 * t;
      EXPECT_EQ(static_cast<unsigned>(mine[0]), 0xAAAAAAAAU);
      EXPECT_EQ(mine[1], t >= 32 ? 1 : 0);
      EXPECT_EQ(mine[2], t < 32 ? 1 : 0);
      EXPECT_EQ(mine[3], 32);
      EXPECT_EQ(mine[4], 1);
      EXPECT_EQ(mine[5], 1);
      EXPECT_EQ(mine[6], t < 32 ? 496 : 496 + 1024);
      EXPECT_EQ(mine[7], t < 32 ? 0 : -32);
    }
  });
}

void parts_of_a_warp(int* out) {
  const unsigned mask = threadIdx.x < 8 ? 0x000000FFU : 0xFFFFFF00U;
  int sum = 0;
  for (unsigned i = 0; i < (threadIdx.x < 8 ? 5U : 2U); ++i) {
    sum += __shfl_sync(mask, static_cast<int>(threadIdx.x), threadIdx.x < 8 ? 1 : 9);
  }
  out[threadIdx.x] = sum;
}

TEST_F(Collectives, PartsOfAWarpGoTheirOwnWays) {
  for_all_schedules([&] {
    const std::vector<int> out = run(parts_of_a_warp, 32);
    EXPECT_EQ(out[0], 5);
    EXPECT_EQ(out[31], 18);
  });
}

void where_am_i(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x + threadIdx.x] = static_cast<int>(block * 1000 + threadIdx.x);
}

TEST_F(Collectives, EveryThreadOfEveryBlockRunsOnce) {
  for_all_schedules([&] {
    const std::vector<int> out = run(where_am_i, 40, dim3(3, 2, 2));
    for (int block = 0; block < 12; ++block) {
      for (int t = 0; t < 40; ++t) EXPECT_EQ(out[static_cast<size_t>(block * 40 + t)], block * 1000 + t);
    }
  });
}

void last_block_sums(int* out) {
  QUIRE_SHARED(int, is_last);
  if (threadIdx.x == 0) {
    out[16 + blockIdx.x] = static_cast<int>(blockIdx.x + 1);
    __threadfence();
    is_last = atomicAdd(out, 1) == static_cast<int>(gridDim.x) - 1 ? 1 : 0;
    __threadfence();
  }
  __syncthreads();
  if (is_last == 1 && threadIdx.x == 0) {
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += out[16 + i];
    out[1] = sum;
  }
}

TEST_F(Collectives, AtomicsAndFencesLetTheLastBlockSum) {
  for_all_schedules([&] {
    const std::vector<int> out = run(last_block_sums, 32, 9);
    EXPECT_EQ(out[0], 9);
    EXPECT_EQ(out[1], 45);
  });
}

void counting_atomics(int* out) {
  atomicMax(out, static_cast<int>(threadIdx.x));
  atomicOr(reinterpret_cast<unsigned*>(out + 1), 1U << threadIdx.x % 32);
  atomicAdd(reinterpret_cast<float*>(out + 2), 0.5F);
}

TEST_F(Collectives, Atomics) {
  const std::vector<int> out = run(counting_atomics, 64);
  EXPECT_EQ(out[0], 63);
  EXPECT_EQ(out[1], -1);
  EXPECT_EQ(std::bit_cast<float>(out[2]), 32.0F);
}

}  // namespace
}  // namespace emu::test
