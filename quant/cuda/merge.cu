// Partials to outputs, and the rotation: what comes before and after attention.
#include <numbers>

#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"
#include "quant/hadamard.h"

namespace quire::cuda {
namespace {

// One block per row and kv head, one thread per channel. Partials are added in their order.
__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ MergeArgs args) {
  const uint32_t row = blockIdx.x;
  const uint32_t head = blockIdx.y;
  const uint32_t channel = threadIdx.x;
  const auto at = [&](uint32_t partial) { return (size_t{head} * args.count + partial) * args.rows + row; };
  float m = -INFINITY;
  for (uint32_t p = 0; p < args.count; ++p) m = fmaxf(m, args.partials.m[at(p)]);
  float l = 0.0F;
  float o = 0.0F;
  for (uint32_t p = 0; p < args.count; ++p) {
    const float part = args.partials.l[at(p)];
    if (part == 0.0F) continue;
    const float weight = exp2_approx(args.partials.m[at(p)] - m);
    l += part * weight;
    o += args.partials.o[at(p) * args.dim + channel] * weight;
  }
  const size_t out = size_t{head} * args.rows + row;
  args.out[out * args.dim + channel] = l == 0.0F ? 0.0F : o / l;
  if (channel == 0 && args.lse != nullptr) {
    args.lse[out] = l == 0.0F ? -INFINITY : (m + log2f(l)) * std::numbers::ln2_v<float>;
  }
}

// One block per row, one thread per channel; the butterflies' order is FORMATS.md's.
__global__ void __launch_bounds__(256) rotate_kernel(float* x, uint32_t dim, const float* diag) {
  Smem shared;
  float* row = shared.take<float>(256);
  const uint32_t c = threadIdx.x;
  float value = x[size_t{blockIdx.x} * dim + c];
  value = fminf(fmaxf(value, -kRotationClamp), kRotationClamp);
  if (diag != nullptr) value = __fmul_rn(value, diag[c]);
  const uint32_t block = hadamard_block(dim);
  for (uint32_t h = 1; h < block; h *= 2) {
    row[c] = value;
    __syncthreads();
    const float other = row[c ^ h];
    value = (c & h) == 0 ? __fadd_rn(value, other) : __fsub_rn(other, value);
    __syncthreads();
  }
  x[size_t{blockIdx.x} * dim + c] = __fmul_rn(value, hadamard_norm(block));
}

}  // namespace

cudaError_t merge_partials(const MergeArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return launch({dim3(args.rows, args.kv_heads), args.dim, 0, stream}, merge_kernel, args);
}

cudaError_t rotate_rows(float* x, uint32_t rows, uint32_t dim, const float* diag, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return launch({rows, dim, 256 * sizeof(float), stream}, rotate_kernel, x, dim, diag);
}

}  // namespace quire::cuda
