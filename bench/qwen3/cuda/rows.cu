// Operations on rows of activations: what stands between the products.
#include "bench/qwen3/cuda/kernels.h"
#include "quant/cuda/gpu.h"
#include "quant/cuda/numbers.cuh"

namespace quire::qwen3::cuda {
namespace {

using quire::cuda::bf16_bits_to_float;
using quire::cuda::block_reduce;
using quire::cuda::launch;
using quire::cuda::Smem;
using quire::cuda::SumOf;

constexpr uint32_t kThreads = 256;
constexpr uint32_t kMostBlocks = 8192;  // enough to fill a device many times over

uint32_t blocks_for(uint64_t count) {
  const uint64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<uint32_t>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

__device__ __forceinline__ uint64_t first_index() { return uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ __forceinline__ uint64_t index_step() { return uint64_t{gridDim.x} * blockDim.x; }

__global__ void __launch_bounds__(kThreads) embed_kernel(const __grid_constant__ EmbedArgs args) {
  const uint64_t count = uint64_t{args.rows} * args.width;
  for (uint64_t i = first_index(); i < count; i += index_step()) {
    const auto token = static_cast<uint64_t>(args.tokens[i / args.width]);
    args.out[i] = bf16_bits_to_float(args.table[token * args.width + i % args.width]);
  }
}

// The whole block normalises `width` values.
__device__ void norm_one(const float* x, const float* weight, float* out, uint32_t width, float eps) {
  Smem shared;
  float* scratch = shared.take<float>(quire::cuda::kWarpLanes);
  float sum = 0.0F;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) sum += x[i] * x[i];
  sum = block_reduce(sum, scratch, SumOf{});
  const float inverse = 1.0F / sqrtf(sum / static_cast<float>(width) + eps);
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) out[i] = x[i] * inverse * weight[i];
}

__global__ void __launch_bounds__(kThreads) norm_kernel(const __grid_constant__ NormArgs args) {
  const uint64_t at = uint64_t{blockIdx.x} * args.width;
  norm_one(args.x + at, args.weight, args.out + at, args.width, args.eps);
}

// A warp per head: it has no more values than that pays for.
__global__ void __launch_bounds__(quire::cuda::kWarpLanes)
    head_norm_kernel(const __grid_constant__ HeadNormArgs args) {
  const HeadRows& heads = args.heads;
  const uint32_t stride = (heads.query_heads + 2 * heads.kv_heads) * heads.dim;
  float* x = heads.data + uint64_t{blockIdx.x} * stride + blockIdx.y * heads.dim;
  const float* weight = blockIdx.y < heads.query_heads ? args.query_weight : args.key_weight;
  norm_one(x, weight, x, heads.dim, args.eps);
}

__global__ void __launch_bounds__(kThreads) rotate_kernel(const __grid_constant__ RotateArgs args) {
  const HeadRows& heads = args.heads;
  const uint32_t half = heads.dim / 2;
  const uint32_t turned = heads.query_heads + heads.kv_heads;
  const uint64_t stride = uint64_t{turned + heads.kv_heads} * heads.dim;
  const uint64_t count = uint64_t{heads.rows} * turned * half;
  for (uint64_t i = first_index(); i < count; i += index_step()) {
    const uint64_t row = i / half / turned;
    const uint64_t pair = i % half;
    float* low = heads.data + row * stride + i / half % turned * heads.dim + pair;
    float* high = low + half;
    const float cosine = args.cosines[row * half + pair];
    const float sine = args.sines[row * half + pair];
    const float a = *low;
    const float b = *high;
    *low = a * cosine - b * sine;
    *high = b * cosine + a * sine;
  }
}

__global__ void __launch_bounds__(kThreads) swiglu_kernel(const __grid_constant__ SwigluArgs args) {
  const uint64_t count = uint64_t{args.rows} * args.width;
  for (uint64_t i = first_index(); i < count; i += index_step()) {
    const float* gate = args.gate_up + i / args.width * 2 * args.width + i % args.width;
    args.out[i] = *gate / (1.0F + expf(-*gate)) * gate[args.width];
  }
}

__global__ void __launch_bounds__(kThreads) add_kernel(const __grid_constant__ AddArgs args) {
  for (uint64_t i = first_index(); i < args.count; i += index_step()) args.x[i] += args.y[i % args.period];
}

__global__ void __launch_bounds__(kThreads) split_kernel(const __grid_constant__ SplitArgs args) {
  for (uint64_t i = first_index(); i < args.count; i += index_step()) {
    const float x = args.x[i];
    const __nv_bfloat16 high = __float2bfloat16_rn(x);
    args.parts[i] = __bfloat16_as_ushort(high);
    args.parts[args.count + i] = __bfloat16_as_ushort(__float2bfloat16_rn(x - __bfloat162float(high)));
  }
}

__global__ void __launch_bounds__(kThreads) join_kernel(const __grid_constant__ JoinArgs args) {
  for (uint64_t i = first_index(); i < args.count; i += index_step()) {
    args.out[i] = args.parts[i] + args.parts[args.count + i];
  }
}

constexpr size_t kNormShared = quire::cuda::kWarpLanes * sizeof(float);

}  // namespace

cudaError_t embed(const EmbedArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return launch({blocks_for(uint64_t{args.rows} * args.width), kThreads, 0, stream}, embed_kernel, args);
}

cudaError_t norm_rows(const NormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return launch({args.rows, kThreads, kNormShared, stream}, norm_kernel, args);
}

cudaError_t norm_heads(const HeadNormArgs& args, cudaStream_t stream) {
  const HeadRows& heads = args.heads;
  if (heads.rows == 0) return cudaSuccess;
  const dim3 grid(heads.rows, heads.query_heads + heads.kv_heads);
  return launch({grid, quire::cuda::kWarpLanes, kNormShared, stream}, head_norm_kernel, args);
}

cudaError_t rotate_heads(const RotateArgs& args, cudaStream_t stream) {
  const HeadRows& heads = args.heads;
  if (heads.rows == 0) return cudaSuccess;
  const uint64_t pairs = uint64_t{heads.rows} * (heads.query_heads + heads.kv_heads) * (heads.dim / 2);
  return launch({blocks_for(pairs), kThreads, 0, stream}, rotate_kernel, args);
}

cudaError_t swiglu(const SwigluArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return launch({blocks_for(uint64_t{args.rows} * args.width), kThreads, 0, stream}, swiglu_kernel, args);
}

cudaError_t add(const AddArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  return launch({blocks_for(args.count), kThreads, 0, stream}, add_kernel, args);
}

cudaError_t split(const SplitArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  return launch({blocks_for(args.count), kThreads, 0, stream}, split_kernel, args);
}

cudaError_t join(const JoinArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  return launch({blocks_for(args.count), kThreads, 0, stream}, join_kernel, args);
}

}  // namespace quire::qwen3::cuda
