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
  const SectionRef& section = args.sections[blockIdx.x];
  const FoldedSide folded = folded_side(args.format, side, section, levels);
  const SectionLayout& layout = args.format.layout;
  const uint8_t* sinks = section.section + (side == Side::kKey ? layout.sink_keys : layout.sink_values);
  const uint32_t values = shape.tokens * shape.dim;
  for (uint32_t i = 4 * threadIdx.x; out != nullptr && i < values; i += 4 * kThreads) {
    const uint32_t token = i / shape.dim;
    const uint32_t channel = i % shape.dim;
    float four[4];
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      four[k] = token < args.format.sink_tokens ? sink_value(sinks, shape.dim, token, channel + k)
                                                : decoded(folded, token, channel + k);
    }
    store_as<float4>(out + size_t{blockIdx.x} * values + i, make_float4(four[0], four[1], four[2], four[3]));
  }
}

}  // namespace

cudaError_t decode_sections(const DecodeArgs& args, cudaStream_t stream) {
  if (!has_kernels(args.format)) return cudaErrorNotSupported;
  if (args.count == 0) return cudaSuccess;
  return launch({dim3(args.count, 2), kThreads, 0, stream}, decode_kernel, args);
}

}  // namespace quire::cuda
