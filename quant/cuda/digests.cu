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
  fold_digest(args.keys + size_t{blockIdx.x} * shape.tokens * shape.dim, shape, args.digests[blockIdx.x],
              scratch);
}

// Rows of queries in whole numbers, in shared memory.
struct QueryRows {
  uint32_t dim;
  float* scale;   // [kMaxRows]
  int16_t* q;     // [kMaxRows][dim]
  int16_t* norm;  // [kMaxRows][dim / 2]

  __device__ explicit QueryRows(uint32_t dim_of) : dim(dim_of) {
    Smem shared;
    scale = shared.take<float>(kMaxRows);
    q = shared.take<int16_t>(size_t{kMaxRows} * dim);
    norm = shared.take<int16_t>(size_t{kMaxRows} * dim / 2);
  }
  static size_t bytes(uint32_t dim) { return kMaxRows * (sizeof(float) + sizeof(int16_t) * dim * 3 / 2); }

  // By one warp: as make_digest_query does.
  __device__ __forceinline__ void quantise(const float* from, uint32_t row) {
    const uint32_t lane = threadIdx.x % kWarpLanes;
    float largest = 0.0F;
    for (uint32_t c = lane; c < dim; c += kWarpLanes) largest = fmaxf(largest, fabsf(from[c]));
    for (int offset = 16; offset > 0; offset /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
    const auto unit = static_cast<float>(static_cast<double>(largest) / kQuerySteps);
    const double steps = unit == 0.0F ? 0.0 : 1.0 / static_cast<double>(unit);
    for (uint32_t p = lane; p < dim / 2; p += kWarpLanes) {
      const double x = rint(static_cast<double>(from[p]) * steps);
      const double y = rint(static_cast<double>(from[dim / 2 + p]) * steps);
      q[row * dim + p] = static_cast<int16_t>(x);
      q[row * dim + dim / 2 + p] = static_cast<int16_t>(y);
      norm[row * dim / 2 + p] = static_cast<int16_t>(ceil(sqrt(squared(x, y))));
    }
    if (lane == 0) scale[row] = unit;
  }
};

// What a lane adds for channels c and c + 1: two bytes of a digest, two words of a query.
template <typename Byte>
__device__ __forceinline__ int dot_two(const uint8_t* bytes, const int16_t* words) {
  const uint32_t b = load_as<uint16_t>(bytes);
  const auto w = load_as<uint32_t>(words);
  return static_cast<int16_t>(w) * static_cast<Byte>(b) +
         static_cast<int16_t>(w >> 16) * static_cast<Byte>(b >> 8);
}

// quant/digest.h's add_mass.
__device__ __forceinline__ float add_mass(float a, float b) {
  const float near = fmaxf(0.0F, __fsub_rn(1.0F, __fmul_rn(0.25F, fabsf(__fsub_rn(a, b)))));
  return __fadd_rn(fmaxf(a, b), __fmul_rn(near, near));
}

// quant/digest.h's DigestScore, by one warp; every lane has it.
struct WarpScore {
  float unit;
  float mass;
  int peak;

  // A lane has two pairs at a time.
  __device__ __forceinline__ void add(uint32_t index, const DigestBlock& block, const QueryRows& queries,
                                      uint32_t row) {
    const uint32_t pairs = queries.dim / 2;
    const int16_t* q = queries.q + size_t{row} * queries.dim;
    const int16_t* norm = queries.norm + size_t{row} * pairs;
    int mean = 0;
    int reach = 0;
    for (uint32_t p = 2 * (threadIdx.x % kWarpLanes); p < pairs; p += 2 * kWarpLanes) {
      mean += dot_two<int8_t>(block.mean + p, q + p) + dot_two<int8_t>(block.mean + pairs + p, q + pairs + p);
      reach += dot_two<uint8_t>(block.radius + p, norm + p);
    }
    mean = __reduce_add_sync(kAllLanes, mean);
    reach = __reduce_add_sync(kAllLanes, reach);
    const float here = __fmul_rn(unit, static_cast<float>(mean + digest_spread(reach)));
    mass = index == 0 ? here : add_mass(mass, here);
    peak = index == 0 ? mean + reach : max(peak, mean + reach);
  }
};

// One block per kv head and run of pages, a warp per page.
__global__ void __launch_bounds__(kThreads)
    score_digests_kernel(const __grid_constant__ DigestScoreArgs args) {
  const uint32_t head = blockIdx.y;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  QueryRows queries(args.shape.dim);
  for (uint32_t row = warp; row < args.rows; row += kWarps) {
    queries.quantise(args.q + (size_t{head} * args.rows + row) * args.shape.dim, row);
  }
  __syncthreads();
  const uint32_t first = blockIdx.x * kPagesOfBlock;
  const uint32_t end = min(first + kPagesOfBlock, args.pages);
  for (uint32_t page = first + warp; page < end; page += kWarps) {
    const uint8_t* digest = args.digests[page] + size_t{head} * digest_bytes(args.shape);
    for (uint32_t row = 0; row < args.rows; ++row) {
      WarpScore score{fminf(__fmul_rn(load_as<float>(digest), queries.scale[row]), kDigestUnit), 0.0F, 0};
      for (uint32_t b = 0; b < digest_blocks(args.shape); ++b) {
        score.add(b, digest_block(digest, args.shape.dim, b), queries, row);
      }
      if (threadIdx.x % kWarpLanes != 0) continue;
      const size_t out = (size_t{head} * args.rows + row) * args.pages + page;
      args.mass[out] = __fadd_rn(score.mass, kDigestBlockMass);
      args.peak[out] = __fmul_rn(score.unit, static_cast<float>(score.peak));
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
  return launch({grid, kThreads, QueryRows::bytes(args.shape.dim), stream}, score_digests_kernel, args);
}

}  // namespace quire::cuda
