// Digests of sections and what queries make of them: quant/digest.cc bit for bit (built with --fmad=false).
#include "quant/cuda/digest_fold.cuh"
#include "quant/cuda/launch.h"
#include "quant/digest.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / kWarpLanes;
constexpr uint32_t kMaxRows = 16;
constexpr uint32_t kPagesOfBlock = 64;  // that share a block's queries
constexpr double kQuerySteps = 16383;

__global__ void __launch_bounds__(kThreads) make_digests_kernel(const __grid_constant__ DigestArgs args) {
  QUIRE_SHARED(float[32], scratch);
  const SectionShape shape = args.shape;
  fold_digest(args.keys + size_t{blockIdx.x} * shape.tokens * shape.dim, shape.tokens, shape.dim,
              args.digests[blockIdx.x], scratch);
}

// A row in whole numbers: q [dim], by one warp; returns their scale.
__device__ __forceinline__ float quantise_row(const float* row, uint32_t dim, int16_t* q) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  float largest = 0.0F;
  for (uint32_t c = lane; c < dim; c += kWarpLanes) largest = fmaxf(largest, fabsf(row[c]));
  for (int offset = 16; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
  const auto scale = static_cast<float>(static_cast<double>(largest) / kQuerySteps);
  const double steps = scale == 0.0F ? 0.0 : 1.0 / static_cast<double>(scale);
  for (uint32_t c = lane; c < dim; c += kWarpLanes) {
    q[c] = static_cast<int16_t>(rint(static_cast<double>(row[c]) * steps));
  }
  return scale;
}

// One block per kv head and run of pages, a warp per page: a lane has four channels at a time.
__global__ void __launch_bounds__(kThreads)
    score_digests_kernel(const __grid_constant__ DigestScoreArgs args) {
  const uint32_t dim = args.shape.dim;
  const uint32_t head = blockIdx.y;
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  Smem shared;
  float* scales = shared.take<float>(kMaxRows);
  int16_t* q = shared.take<int16_t>(size_t{kMaxRows} * dim);
  for (uint32_t row = warp; row < args.rows; row += kWarps) {
    const float scale =
        quantise_row(args.q + (size_t{head} * args.rows + row) * dim, dim, q + size_t{row} * dim);
    if (lane == 0) scales[row] = scale;
  }
  __syncthreads();
  const float tokens = log2f(static_cast<float>(args.shape.tokens));  // of a power of two: exact
  const uint32_t first = blockIdx.x * kPagesOfBlock;
  const uint32_t end = min(first + kPagesOfBlock, args.pages);
  for (uint32_t page = first + warp; page < end; page += kWarps) {
    const uint8_t* digest = args.digests[page] + size_t{head} * digest_bytes(args.shape);
    const auto grid = load_as<float>(digest);
    for (uint32_t row = 0; row < args.rows; ++row) {
      int mean_dot = 0;
      int radius_dot = 0;
      for (uint32_t c = 4 * lane; c < dim; c += 4 * kWarpLanes) {
        const auto means = load_as<uint32_t>(digest + 8 + c);
        const auto radii = load_as<uint32_t>(digest + 8 + dim + c);
        const auto pairs = load_as<uint2>(q + size_t{row} * dim + c);
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const uint32_t pair = j < 2 ? pairs.x : pairs.y;
          const int x = static_cast<int16_t>(pair >> (16 * (j % 2)));
          mean_dot += x * static_cast<int8_t>(means >> (8 * j));
          radius_dot += abs(x) * static_cast<int>(radii >> (8 * j) & 0xFFU);
        }
      }
      mean_dot = __reduce_add_sync(kAllLanes, mean_dot);
      radius_dot = __reduce_add_sync(kAllLanes, radius_dot);
      if (lane != 0) continue;
      const float unit = __fmul_rn(grid, scales[row]);
      const float mean = __fmul_rn(unit, static_cast<float>(mean_dot));
      const float reach = __fmul_rn(unit, static_cast<float>(radius_dot));
      const float mass = __fadd_rn(__fadd_rn(mean, __fmul_rn(kDigestReach, reach)), tokens);
      const size_t out = (size_t{head} * args.rows + row) * args.pages + page;
      args.mass[out] = fminf(fmaxf(mass, -kDigestLimit), kDigestLimit);
      args.peak[out] = fminf(fmaxf(__fadd_rn(mean, reach), -kDigestLimit), kDigestLimit);
    }
  }
}

}  // namespace

cudaError_t make_digests(const DigestArgs& args, cudaStream_t stream) {
  if (!valid_shape(args.shape)) return cudaErrorInvalidValue;
  if (args.count == 0) return cudaSuccess;
  return launch({args.count, kThreads, 0, stream}, make_digests_kernel, args);
}

cudaError_t score_digests(const DigestScoreArgs& args, cudaStream_t stream) {
  if (!valid_shape(args.shape) || args.rows > kMaxRows) return cudaErrorInvalidValue;
  if (args.pages == 0 || args.rows == 0) return cudaSuccess;
  const dim3 grid((args.pages + kPagesOfBlock - 1) / kPagesOfBlock, args.kv_heads);
  const size_t bytes = kMaxRows * sizeof(float) + size_t{kMaxRows} * args.shape.dim * sizeof(int16_t);
  return launch({grid, kThreads, bytes, stream}, score_digests_kernel, args);
}

}  // namespace quire::cuda
