// Encoding: one block per section and side. The section's values are read from global memory, once into
// shared memory where they fit; all arithmetic and its order are FORMATS.md's (built with --fmad=false).
#include <limits>

#include "quant/cuda/encode_rotated.h"
#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarpLanes;
constexpr size_t kStagedBytes = size_t{72} * 1024;  // more would leave one block per multiprocessor
constexpr int kLastMeanCode = 127;
constexpr int kLastScaleCode = 255;
constexpr float kNegligible = 0x1p-60F;

// Values of a section, in global or in shared memory; shared rows are padded by one so that a column has no
// bank conflicts.
struct Rows {
  const float* x;
  uint32_t stride;
  __device__ float operator()(uint32_t token, uint32_t channel) const {
    return x[size_t{token} * stride + channel];
  }
};

// What all steps share.
struct Job {
  DeviceCodec codec;
  bool is_key;
  SectionShape shape;
  uint32_t first;  // tokens below it are sinks
  uint8_t* codes;
  uint8_t* meta;
  Rows rows;
  float* scratch;  // [32]
  float down;      // 2^-e
};

// What a group of values or a channel and a token need to become codes.
struct Scales {
  float* scale_inverse;  // per group; rotated: per token, 0 where the token has none
  float* mid;            // per group; rotated: the mean per channel
};

// Writes a plane of fields: thread by thread whole words, neighbours to neighbours.
template <uint32_t kWidth, typename CodeAt>
__device__ __forceinline__ void write_plane(const Job& job, uint8_t* plane, CodeAt code_at) {
  constexpr uint32_t kQuads = 8 / kWidth;
  const uint32_t lanes = job.is_key ? job.shape.tokens : job.shape.dim;
  const uint32_t reduction = job.is_key ? job.shape.dim : job.shape.tokens;
  const uint32_t words = reduction / (4 * kQuads) * lanes;
  for (uint32_t w = threadIdx.x; w < words; w += kThreads) {
    const uint32_t lane = w % lanes;
    const uint32_t start = w / lanes * 4 * kQuads;
    uint32_t word = 0;
    for (uint32_t i = 0; i < 4 * kQuads; ++i) {
      const uint32_t r = start + i;
      const uint32_t token = job.is_key ? lane : r;
      const uint32_t channel = job.is_key ? r : lane;
      const uint32_t code = token < job.first ? 0U : code_at(token, channel);
      word |= code << (i / 4 * kWidth + i % 4 * 8);
    }
    store_as<uint32_t>(plane + size_t{4} * w, word);
  }
}

template <typename CodeAt>
__device__ __forceinline__ void write_codes(const Job& job, CodeAt code_at) {
  switch (job.codec.bits) {
    case 8:
      return write_plane<8>(job, job.codes, code_at);
    case 4:
      return write_plane<4>(job, job.codes, code_at);
    case 2:
      return write_plane<2>(job, job.codes, code_at);
    default:
      write_plane<2>(job, job.codes, [=](uint32_t t, uint32_t c) { return code_at(t, c) & 3U; });
      write_plane<1>(job, job.codes + size_t{job.shape.tokens} * job.shape.dim / 4,
                     [=](uint32_t t, uint32_t c) { return code_at(t, c) >> 2; });
  }
}

// ---- float codecs ----

__device__ __forceinline__ uint32_t saturated_bf16(float value) { return f32_to_bf16(value); }

__device__ __forceinline__ void encode_float(const Job& job) {
  const uint32_t lanes = job.is_key ? job.shape.tokens : job.shape.dim;
  const uint32_t per_word = 32 / job.codec.bits;
  const uint32_t words = job.shape.tokens * job.shape.dim / per_word;
  for (uint32_t w = threadIdx.x; w < words; w += kThreads) {
    uint32_t word = 0;
    for (uint32_t i = 0; i < per_word; ++i) {
      const uint32_t r = w / lanes * per_word + i;
      const uint32_t token = job.is_key ? w % lanes : r;
      const uint32_t channel = job.is_key ? r : w % lanes;
      if (token < job.first) continue;
      const float value = job.rows(token, channel);
      word |= job.codec.bits == 32 ? __float_as_uint(value) : saturated_bf16(value) << (16 * i);
    }
    store_as<uint32_t>(job.codes + size_t{4} * w, word);
  }
}

// ---- uniform codecs ----

__device__ __forceinline__ uint32_t unsigned_zero_half(float value) {
  const uint32_t bits = __half_as_ushort(__float2half_rn(value));
  return bits == 0x8000U ? 0U : bits;
}

__device__ __forceinline__ void store_group(const Job& job, const Scales& scales, uint32_t groups,
                                            uint32_t group, float low, float high) {
  const auto last = static_cast<float>((1U << job.codec.bits) - 1);
  const float centre = job.is_key ? __fmul_rn(last, 0.5F) : static_cast<float>(1U << (job.codec.bits - 1));
  const uint32_t scale_bits = unsigned_zero_half(__fdiv_rn(__fsub_rn(high, low), last));
  const float scale = half_bits_to_float(scale_bits);
  const float exact_mid =
      job.is_key ? __fmul_rn(__fadd_rn(low, high), 0.5F) : __fadd_rn(low, __fmul_rn(scale, centre));
  const uint32_t mid_bits = unsigned_zero_half(exact_mid);
  scales.scale_inverse[group] = scale > 0.0F ? __fdiv_rn(1.0F, scale) : 0.0F;
  scales.mid[group] = half_bits_to_float(mid_bits);
  store_as<uint16_t>(job.meta + size_t{2} * group, static_cast<uint16_t>(scale_bits));
  store_as<uint16_t>(job.meta + size_t{2} * (groups + group), static_cast<uint16_t>(mid_bits));
}

// Channels of keys: a thread each, tokens one after the other, neighbours side by side.
__device__ __forceinline__ void key_groups(const Job& job, const Scales& scales) {
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += kThreads) {
    if (job.first == job.shape.tokens) {
      store_as<uint16_t>(job.meta + size_t{2} * c, uint16_t{0});
      store_as<uint16_t>(job.meta + size_t{2} * (job.shape.dim + c), uint16_t{0});
      continue;
    }
    float low = __fmul_rn(job.rows(job.first, c), job.down);
    float high = low;
    for (uint32_t t = job.first + 1; t < job.shape.tokens; ++t) {
      const float value = __fmul_rn(job.rows(t, c), job.down);
      low = fminf(low, value);
      high = fmaxf(high, value);
    }
    store_group(job, scales, job.shape.dim, c, low, high);
  }
}

// Tokens of values: a warp each.
__device__ __forceinline__ void value_groups(const Job& job, const Scales& scales) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  for (uint32_t t = threadIdx.x / kWarpLanes; t < job.shape.tokens; t += kWarps) {
    if (t < job.first) {
      if (lane == 0) store_as<uint16_t>(job.meta + size_t{2} * t, uint16_t{0});
      if (lane == 0) store_as<uint16_t>(job.meta + size_t{2} * (job.shape.tokens + t), uint16_t{0});
      continue;
    }
    float low = __fmul_rn(job.rows(t, lane), job.down);
    float high = low;
    for (uint32_t c = lane + kWarpLanes; c < job.shape.dim; c += kWarpLanes) {
      const float value = __fmul_rn(job.rows(t, c), job.down);
      low = fminf(low, value);
      high = fmaxf(high, value);
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      low = fminf(low, __shfl_xor_sync(kAllLanes, low, offset));
      high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, offset));
    }
    if (lane == 0) store_group(job, scales, job.shape.tokens, t, low, high);
  }
}

__device__ __forceinline__ void encode_uniform(const Job& job, const Scales& scales) {
  if (job.is_key) {
    key_groups(job, scales);
  } else {
    value_groups(job, scales);
  }
  __syncthreads();
  const auto last = static_cast<float>((1U << job.codec.bits) - 1);
  const float centre = job.is_key ? __fmul_rn(last, 0.5F) : static_cast<float>(1U << (job.codec.bits - 1));
  const bool is_key = job.is_key;
  const Rows rows = job.rows;
  const float down = job.down;
  write_codes(job, [=](uint32_t token, uint32_t channel) {
    const uint32_t group = is_key ? channel : token;
    const float value = __fmul_rn(rows(token, channel), down);
    const float code =
        rintf(__fadd_rn(__fmul_rn(__fsub_rn(value, scales.mid[group]), scales.scale_inverse[group]), centre));
    return static_cast<uint32_t>(fminf(fmaxf(code, 0.0F), last));
  });
}

// ---- rotated codecs ----

// Writes mean codes and means; returns the step M.
__device__ __forceinline__ int encode_mean(const Job& job, float* mean) {
  const uint32_t valid = job.shape.tokens - job.first;
  uint8_t* codes = job.meta + job.shape.tokens;
  float largest = 0.0F;
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += kThreads) {
    float sum = 0.0F;
    if (valid > 0) sum = __fmul_rn(job.rows(job.first, c), job.down);
    for (uint32_t t = job.first + 1; t < job.shape.tokens; ++t) {
      sum = __fadd_rn(sum, __fmul_rn(job.rows(t, c), job.down));
    }
    if (valid > 0) sum = __fmul_rn(sum, __fdiv_rn(1.0F, static_cast<float>(valid)));
    mean[c] = sum;
    largest = fmaxf(largest, fabsf(sum));
  }
  largest = block_reduce(largest, job.scratch, MaxOf{});
  const bool negligible = valid == 0 || largest < kNegligible;
  const int step = negligible ? 0 : device_ceil_step(__fdiv_rn(largest, static_cast<float>(kLastMeanCode)));
  const float value = negligible ? 0.0F : device_step_value(step);
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += kThreads) {
    int code = 0;
    if (!negligible) code = __float2int_rn(__fdiv_rn(mean[c], value));
    code = min(max(code, -kLastMeanCode), kLastMeanCode);
    mean[c] = negligible ? 0.0F : __fmul_rn(static_cast<float>(code), value);
    codes[c] = static_cast<uint8_t>(code);
  }
  __syncthreads();
  return step;
}

// FORMATS.md's sum16 over the channels of one token: 16 lanes, each adds its own channels in order, then a
// tree.
template <typename Term>
__device__ __forceinline__ float sum16(uint32_t lane, uint32_t dim, Term term) {
  float sum = term(lane);
  for (uint32_t c = lane + 16; c < dim; c += 16) sum = __fadd_rn(sum, term(c));
  for (unsigned half = 8; half > 0; half /= 2) {
    sum = __fadd_rn(sum, __shfl_down_sync(kAllLanes, sum, half, 16));
  }
  return __shfl_sync(kAllLanes, sum, 0, 16);
}

constexpr int kNoStep = -0x7FFFFFFF - 1;

// The step of each token, kNoStep where it is negligible, and what turns its residuals into codes. Half a
// warp per token; tokens are a multiple of what the block takes at a time, so no lane is ever missing.
__device__ __forceinline__ void token_steps(const Job& job, const float* mean, int* steps, float* inverses) {
  const uint32_t lane = threadIdx.x % 16;
  const uint32_t bits = job.codec.bits;
  const float unit = kLevelTables.unit[table_of(bits)];
  for (uint32_t t = threadIdx.x / 16; t < job.shape.tokens; t += kThreads / 16) {
    const auto residual = [&](uint32_t c) { return __fsub_rn(__fmul_rn(job.rows(t, c), job.down), mean[c]); };
    const float energy = sum16(lane, job.shape.dim, [&](uint32_t c) {
      const float r = residual(c);
      return __fmul_rn(r, r);
    });
    const float mean_square = __fmul_rn(energy, __fdiv_rn(1.0F, static_cast<float>(job.shape.dim)));
    const float scale = __fdiv_rn(__fsqrt_rn(mean_square), unit);
    const bool negligible = t < job.first || scale < kNegligible;
    const float inverse = negligible ? 0.0F : __fdiv_rn(1.0F, scale);
    int level_squares = 0;
    const float product = sum16(lane, job.shape.dim, [&](uint32_t c) {
      const float r = residual(c);
      const int level = kLevelTables.levels[table_of(bits)][level_code(bits, __fmul_rn(r, inverse))];
      level_squares += level * level;
      return __fmul_rn(r, static_cast<float>(level));
    });
    for (int offset = 8; offset > 0; offset /= 2) {
      level_squares += __shfl_xor_sync(kAllLanes, level_squares, offset, 16);
    }
    if (lane != 0) continue;
    inverses[t] = inverse;
    steps[t] = kNoStep;
    if (negligible) continue;
    steps[t] = device_round_step(rotated_scale(energy, product, static_cast<float>(level_squares)));
  }
  __syncthreads();
}

// Returns S in the low and M in the high half, without the section's exponent.
__device__ __forceinline__ int2 encode_rotated(const Job& job, const Scales& scales, int* steps) {
  const int mean_step = encode_mean(job, scales.mid);
  token_steps(job, scales.mid, steps, scales.scale_inverse);
  int largest = kNoStep;
  for (uint32_t t = threadIdx.x; t < job.shape.tokens; t += kThreads) largest = max(largest, steps[t]);
  largest = block_reduce(largest, reinterpret_cast<int*>(job.scratch), MaxOf{});
  const int scale_step = largest == kNoStep ? 0 : largest;
  for (uint32_t t = threadIdx.x; t < job.shape.tokens; t += kThreads) {
    const int code = steps[t] == kNoStep ? 0 : max(steps[t] - scale_step + kLastScaleCode, 0);
    job.meta[t] = static_cast<uint8_t>(code);
    if (code == 0) scales.scale_inverse[t] = 0.0F;
  }
  __syncthreads();
  const Rows rows = job.rows;
  const float down = job.down;
  const uint32_t bits = job.codec.bits;
  write_codes(job, [=](uint32_t token, uint32_t channel) {
    const float inverse = scales.scale_inverse[token];
    if (inverse == 0.0F) return 0U;
    const float residual = __fsub_rn(__fmul_rn(rows(token, channel), down), scales.mid[channel]);
    return level_code(bits, __fmul_rn(residual, inverse));
  });
  return {scale_step, mean_step};
}

// ---- a section ----

__device__ __forceinline__ int find_exponent(const Job& job) {
  float largest = 0.0F;
  const uint32_t values = (job.shape.tokens - job.first) * job.shape.dim;
  for (uint32_t i = threadIdx.x; i < values; i += kThreads) {
    largest = fmaxf(largest, fabsf(job.rows(job.first + i / job.shape.dim, i % job.shape.dim)));
  }
  return device_section_exponent(block_reduce(largest, job.scratch, MaxOf{}));
}

__device__ __forceinline__ void write_sinks_and_padding(const EncodeArgs& args, const Job& job,
                                                        uint8_t* section) {
  const SectionLayout& layout = args.format.layout;
  uint8_t* sinks = section + (job.is_key ? layout.sink_keys : layout.sink_values);
  const uint32_t values = args.format.sink_tokens * job.shape.dim;
  for (uint32_t i = threadIdx.x; i < values; i += kThreads) {
    const float value = job.rows(i / job.shape.dim, i % job.shape.dim);
    store_as<uint16_t>(sinks + size_t{2} * i, static_cast<uint16_t>(saturated_bf16(value)));
  }
  const uint32_t used = layout.sink_values + 2 * values;
  for (uint32_t i = used + threadIdx.x; !job.is_key && i < layout.bytes; i += kThreads) section[i] = 0;
}

__global__ void __launch_bounds__(kThreads, 3)
    encode_kernel(const __grid_constant__ EncodeArgs args, bool staged, uint32_t first_side) {
  const SectionFormat& format = args.format;
  const SectionShape shape = format.shape;
  const bool is_key = first_side + blockIdx.y == 0;
  uint8_t* section = args.sections[blockIdx.x];
  const float* values = (is_key ? args.keys : args.values) + size_t{blockIdx.x} * shape.tokens * shape.dim;

  Smem shared;
  float* scratch = shared.take<float>(32);
  const Scales scales{shared.take<float>(256), shared.take<float>(256)};
  int* steps = shared.take<int>(128);
  float* staged_rows = shared.take<float>(staged ? size_t{shape.tokens} * (shape.dim + 1) : 1);
  if (staged) {
    for (uint32_t i = threadIdx.x; i < shape.tokens * shape.dim / 4; i += kThreads) {
      const auto four = load_as<float4>(values + size_t{4} * i);
      float* row = staged_rows + size_t{4 * i / shape.dim} * (shape.dim + 1) + 4 * i % shape.dim;
      row[0] = four.x;
      row[1] = four.y;
      row[2] = four.z;
      row[3] = four.w;
    }
    __syncthreads();
  }

  Job job{is_key ? format.key : format.value,
          is_key,
          shape,
          format.sink_tokens,
          section + (is_key ? format.layout.key_codes : format.layout.value_codes),
          section + (is_key ? format.layout.key_meta : format.layout.value_meta),
          staged ? Rows{staged_rows, shape.dim + 1} : Rows{values, shape.dim},
          scratch,
          1.0F};
  write_sinks_and_padding(args, job, section);
  uint32_t param = 0;
  if (job.codec.family == CodecFamily::kFloat) {
    encode_float(job);
  } else {
    const int exponent = find_exponent(job);
    job.down = power_of_two(-exponent);
    if (job.codec.family == CodecFamily::kUniform) {
      encode_uniform(job, scales);
      param = static_cast<uint32_t>(exponent);
    } else {
      const int2 step = encode_rotated(job, scales, steps);
      const int lift = kStepsPerOctave * exponent;
      param = (static_cast<uint32_t>(step.x + lift) & 0xFFFFU) | static_cast<uint32_t>(step.y + lift) << 16;
    }
  }
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (is_key ? 0 : 1)] = param;
}

}  // namespace

cudaError_t encode_sections(const EncodeArgs& args, cudaStream_t stream) {
  if (!has_kernels(args.format)) return cudaErrorNotSupported;
  if (args.count == 0) return cudaSuccess;
  const cudaError_t keys = encode_rotated(args, Side::kKey, stream);
  if (keys != cudaSuccess && keys != cudaErrorNotSupported) return keys;
  const cudaError_t values = encode_rotated(args, Side::kValue, stream);
  if (values != cudaSuccess && values != cudaErrorNotSupported) return values;
  const uint32_t first_side = keys == cudaSuccess ? 1 : 0;
  const uint32_t sides = (keys == cudaSuccess ? 0 : 1) + (values == cudaSuccess ? 0 : 1);
  if (sides == 0) return cudaSuccess;
  const SectionShape shape = args.format.shape;
  const size_t rows = size_t{shape.tokens} * (shape.dim + 1) * sizeof(float);
  const bool staged = rows <= kStagedBytes;
  const size_t fixed = (32 + 256 + 256 + 128) * sizeof(float);
  return launch({dim3(args.count, sides), kThreads, fixed + (staged ? (rows + 15) / 16 * 16 : 16), stream},
                encode_kernel, args, staged, first_side);
}

}  // namespace quire::cuda
