// Kernels of the benchmark's own: random numbers, and loops that do nothing but multiply. Thread safety: as
// launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace quire::gpu {

// x[i] of a unit normal, the same for the same seed.
cudaError_t fill_normal(float* x, size_t n, uint64_t seed, cudaStream_t stream);
cudaError_t fill_normal_bf16(uint16_t* x, size_t n, uint64_t seed, cudaStream_t stream);

// `blocks` blocks of 256 threads that each issue `rounds` x 16 matrix instructions per warp, on registers
// alone. sink: one word, never written. Operations of one launch: peak_ops.
enum class Peak : uint8_t { kInt8, kBf16 };
cudaError_t multiply(Peak peak, uint32_t blocks, uint32_t rounds, uint32_t* sink, cudaStream_t stream);
double peak_ops(Peak peak, uint32_t blocks, uint32_t rounds);

}  // namespace quire::gpu
