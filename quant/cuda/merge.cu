// Partials to outputs, and the rotation: what comes before and after attention.
#include <numbers>

#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"
#include "quant/hadamard.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kGroups = 4;      // of threads, which share the partials of a row
constexpr uint32_t kWeights = 1024;  // of partials that are held at a time
constexpr uint32_t kFew = 4;         // partials, which a warp deals with
constexpr uint32_t kFewThreads = 256;

// What partials of sum l and maximum m come to, o their weighted sum, and what stands in the output already.
struct Merged {
  float inverse;  // of o
  float earlier;  // share of the output as it stands
  float lse;      // natural
};
__device__ inline Merged merged_onto(const MergeArgs& args, size_t out, float m, float l) {
  Merged merged{l == 0.0F ? 0.0F : 1.0F / l, 0.0F,
                l == 0.0F ? -INFINITY : (m + log2f(l)) * std::numbers::ln2_v<float>};
  const float before = args.onto ? args.lse[out] : -INFINITY;
  if (before == -INFINITY) return merged;
  const float most = fmaxf(before, merged.lse);
  const float old = expf(before - most);
  const float both = old + expf(merged.lse - most);
  return {merged.inverse * (1.0F - old / both), old / both, most + logf(both)};
}

// One block per row and kv head. First the partials' weights; then a group of threads, one per channel, takes
// every fourth partial in their order, and the groups' sums are added in theirs: many loads are under way at
// once.
__global__ void __launch_bounds__(1024) merge_kernel(const __grid_constant__ MergeArgs args) {
  Smem shared;
  float* scratch = shared.take<float>(32);
  float* weights = shared.take<float>(kWeights);
  float* sums = shared.take<float>(size_t{kGroups} * args.dim);
  const uint32_t row = blockIdx.x;
  const uint32_t head = blockIdx.y;
  const uint32_t channel = threadIdx.x % args.dim;
  const uint32_t group = threadIdx.x / args.dim;
  const auto at = [&](uint32_t partial) { return (size_t{head} * args.count + partial) * args.rows + row; };
  float m = -INFINITY;
  for (uint32_t p = threadIdx.x; p < args.count; p += blockDim.x) m = fmaxf(m, args.partials.m[at(p)]);
  m = block_reduce(m, scratch, MaxOf{});
  float l = 0.0F;
  float o = 0.0F;
  for (uint32_t first = 0; first < args.count; first += kWeights) {
    const uint32_t count = min(args.count - first, kWeights);
    for (uint32_t p = threadIdx.x; p < count; p += blockDim.x) {
      const float part = args.partials.l[at(first + p)];
      const float weight = part == 0.0F ? 0.0F : exp2_approx(args.partials.m[at(first + p)] - m);
      l += part * weight;
      weights[p] = weight;
    }
    __syncthreads();
#pragma unroll 8
    for (uint32_t p = group; p < count; p += kGroups) {
      o += args.partials.o[at(first + p) * args.dim + channel] * weights[p];
    }
    __syncthreads();
  }
  sums[threadIdx.x] = o;
  l = block_reduce(l, scratch, SumOf{});
  const size_t out = size_t{head} * args.rows + row;
  const Merged merged = merged_onto(args, out, m, l);
  __syncthreads();  // lse has been read by all
  if (group > 0) return;
  for (uint32_t other = 1; other < kGroups; ++other) o += sums[other * args.dim + channel];
  float* at_out = args.out + out * args.dim + channel;
  o *= merged.inverse;
  *at_out = merged.earlier == 0.0F ? o : o + *at_out * merged.earlier;
  if (channel == 0 && args.lse != nullptr) args.lse[out] = merged.lse;
}

// One warp per row and kv head, where partials are few and rows many.
__global__ void __launch_bounds__(kFewThreads) merge_few_kernel(const __grid_constant__ MergeArgs args) {
  const uint32_t row = blockIdx.x * (kFewThreads / kWarpLanes) + threadIdx.x / kWarpLanes;
  const uint32_t head = blockIdx.y;
  if (row >= args.rows) return;
  const auto at = [&](uint32_t partial) { return (size_t{head} * args.count + partial) * args.rows + row; };
  float ms[kFew];
  float weights[kFew];
  float m = -INFINITY;
#pragma unroll
  for (uint32_t p = 0; p < kFew; ++p) {
    ms[p] = p < args.count ? args.partials.m[at(p)] : -INFINITY;
    weights[p] = p < args.count ? args.partials.l[at(p)] : 0.0F;
    m = fmaxf(m, ms[p]);
  }
  float l = 0.0F;
#pragma unroll
  for (uint32_t p = 0; p < kFew; ++p) {
    const float weight = weights[p] == 0.0F ? 0.0F : exp2_approx(ms[p] - m);
    l += weights[p] * weight;
    weights[p] = weight;
  }
  const size_t out = size_t{head} * args.rows + row;
  const Merged merged = merged_onto(args, out, m, l);
  __syncwarp();  // lse has been read by all
  for (uint32_t channel = 4 * (threadIdx.x % kWarpLanes); channel < args.dim; channel += 4 * kWarpLanes) {
    float4 o = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll
    for (uint32_t p = 0; p < kFew; ++p) {
      if (p >= args.count) continue;
      const auto part = load_as<float4>(args.partials.o + at(p) * args.dim + channel);
      o = make_float4(o.x + part.x * weights[p], o.y + part.y * weights[p], o.z + part.z * weights[p],
                      o.w + part.w * weights[p]);
    }
    float* to = args.out + out * args.dim + channel;
    o = make_float4(o.x * merged.inverse, o.y * merged.inverse, o.z * merged.inverse, o.w * merged.inverse);
    if (merged.earlier != 0.0F) {
      const auto before = load_as<float4>(to);
      o = make_float4(o.x + before.x * merged.earlier, o.y + before.y * merged.earlier,
                      o.z + before.z * merged.earlier, o.w + before.w * merged.earlier);
    }
    store_as<float4>(to, o);
  }
  if (threadIdx.x % kWarpLanes == 0 && args.lse != nullptr) args.lse[out] = merged.lse;
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
  if (args.count <= kFew) {
    constexpr uint32_t kRows = kFewThreads / kWarpLanes;
    const dim3 grid((args.rows + kRows - 1) / kRows, args.kv_heads);
    return launch({grid, kFewThreads, 0, stream}, merge_few_kernel, args);
  }
  const size_t shared = (32 + kWeights + size_t{kGroups} * args.dim) * sizeof(float);
  return launch({dim3(args.rows, args.kv_heads), kGroups * args.dim, shared, stream}, merge_kernel, args);
}

cudaError_t rotate_rows(float* x, uint32_t rows, uint32_t dim, const float* diag, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return launch({rows, dim, 256 * sizeof(float), stream}, rotate_kernel, x, dim, diag);
}

}  // namespace quire::cuda
