// Decoding of whole sections, one thread per value at a time: exact, for whoever needs values and not
// attention.
#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"
#include "quant/dot_quad.h"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 256;

__device__ __forceinline__ float uniform_value(const DeviceCodec& codec, Side side, SectionShape shape,
                                               const uint8_t* meta, uint32_t param, uint32_t code,
                                               uint32_t token, uint32_t channel) {
  const uint32_t groups = side == Side::kKey ? shape.dim : shape.tokens;
  const uint32_t group = side == Side::kKey ? channel : token;
  const float scale = half_bits_to_float(load_as<uint16_t>(meta + size_t{2} * group));
  const float mid = half_bits_to_float(load_as<uint16_t>(meta + size_t{2} * (groups + group)));
  const auto last = static_cast<float>((1U << codec.bits) - 1);
  const float centre =
      side == Side::kKey ? __fmul_rn(last, 0.5F) : static_cast<float>(1U << (codec.bits - 1));
  const float value = __fadd_rn(__fmul_rn(__fsub_rn(static_cast<float>(code), centre), scale), mid);
  return __fmul_rn(value, power_of_two(static_cast<int32_t>(param)));
}

__device__ __forceinline__ float rotated_value(const DeviceCodec& codec, SectionShape shape,
                                               const uint8_t* meta, uint32_t param, uint32_t code,
                                               uint32_t token, uint32_t channel) {
  const int scale_code = meta[token];
  const auto largest = static_cast<int16_t>(param & 0xFFFFU);
  const float scale = scale_code == 0 ? 0.0F : device_step_value(largest + scale_code - 255);
  const float mean_step = device_step_value(static_cast<int16_t>(param >> 16));
  const auto mean_code = static_cast<float>(static_cast<int8_t>(meta[shape.tokens + channel]));
  const auto level = static_cast<float>(kLevelTables.levels[table_of(codec.bits)][code]);
  return __fadd_rn(__fmul_rn(level, scale), __fmul_rn(mean_code, mean_step));
}

__device__ __forceinline__ float decoded(const DeviceCodec& codec, Side side, SectionShape shape,
                                         const uint8_t* codes, const uint8_t* meta, uint32_t param,
                                         uint32_t token, uint32_t channel) {
  if (codec.family == CodecFamily::kFloat) {
    const size_t at = float_index(side, shape, codec.bits, token, channel);
    if (codec.bits == 32) return load_as<float>(codes + 4 * at);
    return bf16_bits_to_float(load_as<uint16_t>(codes + 2 * at));
  }
  const uint32_t code = get_code(codes, side, shape, codec.bits, token, channel);
  if (codec.family == CodecFamily::kUniform) {
    return uniform_value(codec, side, shape, meta, param, code, token, channel);
  }
  return rotated_value(codec, shape, meta, param, code, token, channel);
}

__global__ void __launch_bounds__(kThreads) decode_kernel(const __grid_constant__ DecodeArgs args) {
  const SectionShape shape = args.format.shape;
  const Side side = blockIdx.y == 0 ? Side::kKey : Side::kValue;
  float* out = side == Side::kKey ? args.keys : args.values;
  const SectionLayout& layout = args.format.layout;
  const SectionRef& ref = args.sections[blockIdx.x];
  const DeviceCodec codec = side == Side::kKey ? args.format.key : args.format.value;
  const uint8_t* codes = ref.section + (side == Side::kKey ? layout.key_codes : layout.value_codes);
  const uint8_t* meta = ref.section + (side == Side::kKey ? layout.key_meta : layout.value_meta);
  const uint32_t param = side == Side::kKey ? ref.key_param : ref.value_param;
  const uint32_t values = shape.tokens * shape.dim;
  for (uint32_t i = threadIdx.x; out != nullptr && i < values; i += kThreads) {
    out[size_t{blockIdx.x} * values + i] =
        decoded(codec, side, shape, codes, meta, param, i / shape.dim, i % shape.dim);
  }
}

}  // namespace

cudaError_t decode_sections(const DecodeArgs& args, cudaStream_t stream) {
  if (!has_kernels(args.format)) return cudaErrorNotSupported;
  if (args.count == 0) return cudaSuccess;
  return launch({dim3(args.count, 2), kThreads, 0, stream}, decode_kernel, args);
}

}  // namespace quire::cuda
