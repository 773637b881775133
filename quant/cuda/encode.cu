// Encoding of float, uniform and rotated codecs: one block per section and side. The section's values are
// read from global memory, once into shared memory where they fit; all arithmetic and its order are
// FORMATS.md's (built with --fmad=false).
#include "quant/cuda/encode_block.cuh"
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/uniform_group.cuh"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarpLanes;
constexpr size_t kStagedBytes = size_t{72} * 1024;  // more would leave one block per multiprocessor
constexpr int kLastScaleCode = 255;

// What a group of values or a channel and a token need to become codes.
struct Scales {
  float* scale_inverse;  // per group; rotated: per token, 0 where the token has none
  float* mid;            // per group; rotated: the mean per channel
};

// ---- float codecs ----

// Values of f32 lie in a section as they come: nothing is gained by staging them.
__host__ __device__ __forceinline__ bool is_copy(const DeviceCodec& codec, bool is_key) {
  return codec.id == CodecId::kF32 && !is_key;
}
__device__ __forceinline__ void copy_values(const Job& job) {
  job.rows.with_fours([&](auto rows) {
    for (uint32_t i = threadIdx.x; i < job.shape.tokens * job.shape.dim / 4; i += kThreads) {
      const uint32_t token = 4 * i / job.shape.dim;
      const float4 four = rows.four(token, 4 * i % job.shape.dim);
      store_as<float4>(job.codes + size_t{16} * i, token < job.first ? make_float4(0, 0, 0, 0) : four);
    }
  });
}

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
      word |= job.codec.bits == 32 ? __float_as_uint(value) : uint32_t{f32_to_bf16(value)} << (16 * i);
    }
    store_as<uint32_t>(job.codes + size_t{4} * w, word);
  }
}

// ---- uniform codecs ----

__device__ __forceinline__ void store_group(const Job& job, const Scales& scales, uint32_t groups,
                                            uint32_t group, float low, float high) {
  const UniformGroup g = uniform_group(job.codec.bits, job.is_key, low, high);
  scales.scale_inverse[group] = g.inverse;
  scales.mid[group] = g.mid;
  store_as<uint16_t>(job.meta + size_t{2} * group, g.scale_bits);
  store_as<uint16_t>(job.meta + size_t{2} * (groups + group), g.mid_bits);
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
  const InputRows rows = job.rows;
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
  const InputRows rows = job.rows;
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

// Values to rows of [dim + 1] in shared memory.
__device__ __forceinline__ void stage_rows(const Job& job, float* staged) {
  const uint32_t dim = job.shape.dim;
  job.rows.with_fours([=](auto rows) {
    for (uint32_t i = threadIdx.x; i < job.shape.tokens * dim / 4; i += kThreads) {
      const uint32_t token = 4 * i / dim;
      const uint32_t channel = 4 * i % dim;
      const float4 four = rows.four(token, channel);
      float* row = staged + size_t{token} * (dim + 1) + channel;
      row[0] = four.x;
      row[1] = four.y;
      row[2] = four.z;
      row[3] = four.w;
    }
  });
}

__global__ void __launch_bounds__(kThreads, 3)
    encode_kernel(const __grid_constant__ EncodeArgs args, bool staged, bool is_key) {
  const SectionFormat& format = args.format;
  const SectionShape shape = format.shape;
  uint8_t* section = args.sections[blockIdx.x];

  Smem shared;
  float* scratch = shared.take<float>(32);
  const Scales scales{shared.take<float>(256), shared.take<float>(256)};
  int* steps = shared.take<int>(128);
  float* staged_rows = shared.take<float>(staged ? size_t{shape.tokens} * (shape.dim + 1) : 1);
  Job job = make_job(args, is_key, section, scratch);
  if (staged) {
    stage_rows(job, staged_rows);
    job.rows = {staged_rows, shape.dim + 1, InputType::kF32};
    __syncthreads();
  }
  write_sinks_and_padding(args, job, section);
  uint32_t param = 0;
  if (is_copy(job.codec, is_key)) {
    copy_values(job);
  } else if (job.codec.family == CodecFamily::kFloat) {
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

cudaError_t encode_plain(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const SectionShape shape = args.format.shape;
  const size_t rows = size_t{shape.tokens} * (shape.dim + 1) * sizeof(float);
  const bool is_key = side == Side::kKey;
  const bool staged = rows <= kStagedBytes && !is_copy(args.format.value, is_key);
  const size_t fixed = (32 + 256 + 256 + 128) * sizeof(float);
  return launch({args.count, kThreads, fixed + (staged ? (rows + 15) / 16 * 16 : 16), stream}, encode_kernel,
                args, staged, is_key);
}

}  // namespace quire::cuda
