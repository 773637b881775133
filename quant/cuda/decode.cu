// Decoding of whole sections, four channels of a token per thread at a time: exact, for whoever needs values
// and not attention.
#include "quant/cuda/decoded.cuh"
#include "quant/cuda/launch.h"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 256;

__global__ void __launch_bounds__(kThreads, 4) decode_kernel(const __grid_constant__ DecodeArgs args) {
  const SectionShape shape = args.format.shape;
  const Side side = blockIdx.y == 0 ? Side::kKey : Side::kValue;
  QUIRE_SHARED(int8_t[kDecodeLevels], levels);
  if (threadIdx.x < kDecodeLevels) levels[threadIdx.x] = table_level(args.format, side, threadIdx.x);
  __syncthreads();
  float* out = side == Side::kKey ? args.keys : args.values;
  const FoldedSide folded = folded_side(args.format, side, args.sections[blockIdx.x], levels);
  const uint32_t values = shape.tokens * shape.dim;
  for (uint32_t i = 4 * threadIdx.x; out != nullptr && i < values; i += 4 * kThreads) {
    const uint32_t token = i / shape.dim;
    const uint32_t channel = i % shape.dim;
    store_as<float4>(out + size_t{blockIdx.x} * values + i,
                     make_float4(decoded(folded, token, channel), decoded(folded, token, channel + 1),
                                 decoded(folded, token, channel + 2), decoded(folded, token, channel + 3)));
  }
}

}  // namespace

cudaError_t decode_sections(const DecodeArgs& args, cudaStream_t stream) {
  if (!has_kernels(args.format)) return cudaErrorNotSupported;
  if (args.count == 0) return cudaSuccess;
  return launch({dim3(args.count, 2), kThreads, 0, stream}, decode_kernel, args);
}

}  // namespace quire::cuda
