#include "bench/gpu/device_work.h"
#include "quant/cuda/gpu.h"

namespace quire::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / cuda::kWarpLanes;
constexpr int kChains = 16;  // independent products of a warp

__device__ uint64_t mixed(uint64_t z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
  z = (z ^ z >> 27) * 0x94D049BB133111EBU;
  return z ^ z >> 31;
}

// Box and Muller.
template <typename T>
__global__ void fill_kernel(T* x, size_t n, uint64_t seed) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const uint64_t bits = mixed((i + 1) * 0x9E3779B97F4A7C15U + mixed(seed));
    const float u = (static_cast<float>(bits >> 40) + 0.5F) * 0x1p-24F;
    const float v = static_cast<float>(bits & 0xFFFFFFU) * 0x1p-24F;
    const float normal = sqrtf(-2.0F * __logf(u)) * __cosf(6.2831853F * v);
    if constexpr (sizeof(T) == 4) {
      x[i] = normal;
    } else {
      x[i] = static_cast<uint16_t>(__float_as_uint(normal) >> 16);  // bf16, towards zero
    }
  }
}

template <typename Sum, typename Product>
__device__ __forceinline__ void multiply_rounds(uint32_t rounds, uint32_t* sink, Product product) {
  Sum sums[kChains][4] = {};
  uint32_t a[4];
  uint32_t b[2];
  for (uint32_t i = 0; i < 4; ++i) a[i] = static_cast<uint32_t>(mixed(threadIdx.x * 4 + i)) & 0x3F7F3F7FU;
  for (uint32_t i = 0; i < 2; ++i)
    b[i] = static_cast<uint32_t>(mixed(threadIdx.x * 2 + i + 999)) & 0x3F7F3F7FU;
  for (uint32_t r = 0; r < rounds; ++r) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) product(sums[chain], a, b);
  }
  Sum total{};
  for (int chain = 0; chain < kChains; ++chain)
    total += sums[chain][0] + sums[chain][1] + sums[chain][2] + sums[chain][3];
  if (total == Sum{1234567}) *sink = 1;  // so that the sums are wanted
}

__global__ void __launch_bounds__(kThreads) multiply_bytes(uint32_t rounds, uint32_t* sink) {
  multiply_rounds<int>(rounds, sink, [](int(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) {
    cuda::mma_bytes(cuda::SignedBytes{}, cuda::SignedBytes{}, d, a, b);
  });
}
__global__ void __launch_bounds__(kThreads) multiply_bf16(uint32_t rounds, uint32_t* sink) {
  multiply_rounds<float>(rounds, sink, [](float(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) {
    cuda::mma_bf16(d, a, b);
  });
}

}  // namespace

cudaError_t fill_normal(float* x, size_t n, uint64_t seed, cudaStream_t stream) {
  return cuda::launch({4096, 256, 0, stream}, fill_kernel<float>, x, n, seed);
}

cudaError_t fill_normal_bf16(uint16_t* x, size_t n, uint64_t seed, cudaStream_t stream) {
  return cuda::launch({4096, 256, 0, stream}, fill_kernel<uint16_t>, x, n, seed);
}

cudaError_t multiply(Peak peak, uint32_t blocks, uint32_t rounds, uint32_t* sink, cudaStream_t stream) {
  return cuda::launch({blocks, kThreads, 0, stream}, peak == Peak::kInt8 ? multiply_bytes : multiply_bf16,
                      rounds, sink);
}

double peak_ops(Peak peak, uint32_t blocks, uint32_t rounds) {
  const double of_one = 2.0 * 16 * 8 * (peak == Peak::kInt8 ? 32 : 16);
  return of_one * kChains * kWarps * blocks * rounds;
}

}  // namespace quire::gpu
