// Encoding of uniform codecs and bf16 with values in registers (encode_registers.cuh). Tokens of values,
// which are groups, lie in four lanes; channels of keys go through shared memory once, for their range.
#include "quant/cuda/encode_registers.cuh"
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/uniform_group.cuh"

namespace quire::cuda {
namespace {

using namespace registers;

constexpr uint32_t kBlocksPerProcessor = 3;

// Shared memory of a block.
struct Workplace {
  float* inverse;  // [dim], of keys
  float* mid;      // [dim]
  float* low;      // [parts][dim]
  float* high;     // [parts][dim]
  float* rows;     // [tokens][row_floats] of keys; of values what write_values needs
};

// Scales and midpoints of the channels of keys, to meta and shared memory. As many threads share a channel as
// there are.
template <uint32_t kBits, int kSixteens>
__device__ __forceinline__ void range_channels(const Job& job, const Values<kSixteens>& values,
                                               const Workplace& place) {
  constexpr uint32_t kDim = 16 * kSixteens;
  constexpr uint32_t kStride = row_floats(kDim);
  store_row(job, values, place.rows);
  __syncthreads();
  const uint32_t parts = blockDim.x / kDim;
  const uint32_t channel = threadIdx.x % kDim;
  const uint32_t part = threadIdx.x / kDim;
  float low = INFINITY;
  float high = -INFINITY;
  for (uint32_t t = part; t < job.shape.tokens; t += parts) {
    const float value = place.rows[size_t{t} * kStride + channel];
    if (t < job.first) continue;
    low = fminf(low, value);
    high = fmaxf(high, value);
  }
  place.low[threadIdx.x] = low;
  place.high[threadIdx.x] = high;
  __syncthreads();
  if (threadIdx.x < kDim) {
    for (uint32_t other = 1; other < parts; ++other) {
      low = fminf(low, place.low[other * kDim + channel]);
      high = fmaxf(high, place.high[other * kDim + channel]);
    }
    UniformGroup group{0, 0, 0.0F, 0.0F};
    if (job.first < job.shape.tokens) group = uniform_group(kBits, true, low, high);
    place.inverse[channel] = group.inverse;
    place.mid[channel] = group.mid;
    store_as<uint16_t>(job.meta + size_t{2} * channel, group.scale_bits);
    store_as<uint16_t>(job.meta + size_t{2} * (kDim + channel), group.mid_bits);
  }
  __syncthreads();
}

// The scale and midpoint of the thread's token of values, to meta.
template <uint32_t kBits, int kSixteens>
__device__ __forceinline__ UniformGroup range_token(const Job& job, const Values<kSixteens>& values) {
  float low = values.x[0][0];
  float high = low;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      low = fminf(low, values.x[k][j]);
      high = fmaxf(high, values.x[k][j]);
    }
  }
#pragma unroll
  for (int lanes = 1; lanes < 4; lanes *= 2) {
    low = fminf(low, __shfl_xor_sync(kAllLanes, low, lanes));
    high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, lanes));
  }
  UniformGroup group{0, 0, 0.0F, 0.0F};
  if (job.token >= job.first) group = uniform_group(kBits, false, low, high);
  if (job.lane == 0) {
    store_as<uint16_t>(job.meta + size_t{2} * job.token, group.scale_bits);
    store_as<uint16_t>(job.meta + size_t{2} * (job.shape.tokens + job.token), group.mid_bits);
  }
  return group;
}

// A code in the lowest byte.
template <uint32_t kBits, bool kKeys>
__device__ __forceinline__ uint32_t uniform_code(float value, float mid, float inverse) {
  constexpr auto kLast = static_cast<float>((1U << kBits) - 1);
  const float code = __fadd_rn(__fmul_rn(__fsub_rn(value, mid), inverse), uniform_centre(kBits, kKeys));
  // 1.5 * 2^23: what is added rounds to an integer, ties to even.
  return __float_as_uint(__fadd_rn(fminf(fmaxf(code, 0.0F), kLast), 12582912.0F));
}

template <uint32_t kBits, int kSixteens, bool kKeys>
__device__ __forceinline__ uint32_t fold_uniform(const Job& job, const Workplace& place,
                                                 Values<kSixteens>& values) {
  const int exponent = scale_down(job, values);
  UniformGroup group{};
  if constexpr (kKeys) {
    range_channels<kBits>(job, values, place);
  } else {
    group = range_token<kBits>(job, values);
  }
  Codes<kSixteens> codes;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    float mids[4] = {group.mid, group.mid, group.mid, group.mid};
    float inverses[4] = {group.inverse, group.inverse, group.inverse, group.inverse};
    if constexpr (kKeys) {
      const auto mid = load_as<float4>(place.mid + 16 * k + 4 * job.lane);
      const auto inverse = load_as<float4>(place.inverse + 16 * k + 4 * job.lane);
      mids[0] = mid.x, mids[1] = mid.y, mids[2] = mid.z, mids[3] = mid.w;
      inverses[0] = inverse.x, inverses[1] = inverse.y, inverses[2] = inverse.z, inverses[3] = inverse.w;
    }
    uint32_t code[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) code[j] = uniform_code<kBits, kKeys>(values.x[k][j], mids[j], inverses[j]);
    codes.quad[k] =
        __byte_perm(__byte_perm(code[0], code[1], 0x0040U), __byte_perm(code[2], code[3], 0x0040U), 0x5410U);
  }
  const uint32_t kept = job.token < job.first ? 0U : 0xFFFFFFFFU;
  write_codes<kBits, kSixteens, kKeys>(job, codes, kept, reinterpret_cast<uint32_t*>(place.rows));
  return static_cast<uint32_t>(exponent);
}

__device__ __forceinline__ uint32_t bf16_pair(float first, float second) {
  return f32_to_bf16(first) | uint32_t{f32_to_bf16(second)} << 16;
}

// Pairs of channels of keys; of values pairs of tokens, of which each of two threads writes half the
// channels.
template <int kSixteens, bool kKeys>
__device__ __forceinline__ void write_bf16(const Job& job, const Values<kSixteens>& values) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const bool odd = job.token % 2 != 0;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const uint32_t low = bf16_pair(values.x[k][0], values.x[k][1]);
    const uint32_t high = bf16_pair(values.x[k][2], values.x[k][3]);
    const uint32_t channel = 16 * static_cast<uint32_t>(k) + 4 * job.lane;
    if constexpr (kKeys) {
      uint8_t* at = job.codes + (size_t{channel / 2} * job.shape.tokens + job.token) * 4;
      store_as<uint32_t>(at, low);
      store_as<uint32_t>(at + size_t{4} * job.shape.tokens, high);
    } else {
      const uint32_t other = __shfl_xor_sync(kAllLanes, odd ? low : high, 4);
      const uint32_t even_token = odd ? other : low;
      const uint32_t odd_token = odd ? high : other;
      store_as<uint2>(job.codes + (size_t{job.token / 2} * kDim + channel + (odd ? 2U : 0U)) * 4,
                      make_uint2(__byte_perm(even_token, odd_token, 0x5410U),
                                 __byte_perm(even_token, odd_token, 0x7632U)));
    }
  }
}

// kBits: 16 is bf16.
template <uint32_t kBits, int kSixteens, bool kKeys>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerProcessor)
    encode_uniform_kernel(const __grid_constant__ EncodeArgs args) {
  constexpr uint32_t kDim = 16 * kSixteens;
  Smem shared;
  float* scratch = shared.take<float>(32);
  Values<kSixteens> values;
  const Job job = start<kSixteens, kKeys>(args, scratch, values);
  uint32_t param = 0;
  if constexpr (kBits == 16) {
    write_bf16<kSixteens, kKeys>(job, values);
  } else {
    Workplace place{};
    if constexpr (kKeys) {
      place.inverse = shared.take<float>(kDim);
      place.mid = shared.take<float>(kDim);
      place.low = shared.take<float>(kMaxThreads);
      place.high = shared.take<float>(kMaxThreads);
      place.rows = shared.take<float>(size_t{job.shape.tokens} * row_floats(kDim));
    } else {
      place.rows = shared.take<float>(size_t{job.shape.tokens} / 8 * kDim);
    }
    param = fold_uniform<kBits, kSixteens, kKeys>(job, place, values);
  }
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (kKeys ? 0 : 1)] = param;
}

template <uint32_t kBits, int kSixteens, bool kKeys>
cudaError_t launch_side(const EncodeArgs& args, cudaStream_t stream) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const uint32_t tokens = args.format.shape.tokens;
  size_t floats = 32;
  if (kBits != 16) {
    floats +=
        kKeys ? 2 * kDim + 2 * kMaxThreads + size_t{tokens} * row_floats(kDim) : size_t{tokens} / 8 * kDim;
  }
  return launch({args.count, kLanesOfToken * tokens, floats * sizeof(float), stream},
                encode_uniform_kernel<kBits, kSixteens, kKeys>, args);
}

template <uint32_t kBits>
cudaError_t launch_bits(const EncodeArgs& args, Side side, cudaStream_t stream) {
  switch (args.format.shape.dim) {
    case 64:
      return side == Side::kKey ? launch_side<kBits, 4, true>(args, stream)
                                : launch_side<kBits, 4, false>(args, stream);
    case 128:
      return side == Side::kKey ? launch_side<kBits, 8, true>(args, stream)
                                : launch_side<kBits, 8, false>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace

cudaError_t encode_uniform(const EncodeArgs& args, Side side, cudaStream_t stream) {
  if (args.format.shape.tokens > kMaxTokens) return cudaErrorNotSupported;
  switch (codec_of(args, side).id) {
    case CodecId::kBf16:
      return launch_bits<16>(args, side, stream);
    case CodecId::kInt8:
      return launch_bits<8>(args, side, stream);
    case CodecId::kInt4:
      return launch_bits<4>(args, side, stream);
    case CodecId::kInt3:
      return launch_bits<3>(args, side, stream);
    case CodecId::kInt2:
      return launch_bits<2>(args, side, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace quire::cuda
