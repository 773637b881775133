// Encoding of rotated codecs, one side of a section per block. A thread keeps its values in registers: four
// lanes have the channels of a token, four neighbours of every sixteen each, eight tokens make a warp. Only
// the means, which sum over tokens in their order, go through shared memory. All arithmetic and its order are
// FORMATS.md's (built with
// --fmad=false).
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/level_search.cuh"
#include "quant/cuda/numbers.cuh"

namespace quire::cuda {
namespace {

constexpr int kLastMeanCode = 127;
constexpr int kLastScaleCode = 255;
constexpr float kNegligible = 0x1p-60F;
constexpr int kNoStep = -0x7FFFFFFF - 1;
constexpr uint32_t kLanesOfToken = 4;
constexpr uint32_t kMaxTokens = 64;  // more would leave one block per multiprocessor
constexpr uint32_t kMaxThreads = kLanesOfToken * kMaxTokens;
constexpr uint32_t kBlocksPerProcessor = 3;

// Of a row in shared memory: the padding keeps four lanes and two tokens off each other's banks.
constexpr uint32_t row_floats(uint32_t dim) { return dim + 16; }

// Values 16 k + 4 l + j of a thread's token, l its lane of the four.
template <int kSixteens>
struct Values {
  float x[kSixteens][4];
};

struct Job {
  SectionShape shape;
  uint32_t first;  // tokens below it are sinks
  uint32_t token;
  uint32_t lane;  // l
  uint8_t* codes;
  uint8_t* meta;
  float* scratch;  // [32]
};

template <int kSixteens>
__device__ __forceinline__ void write_sink(uint8_t* row, uint32_t lane, const Values<kSixteens>& values) {
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const uint32_t low = f32_to_bf16(values.x[k][0]) | uint32_t{f32_to_bf16(values.x[k][1])} << 16;
    const uint32_t high = f32_to_bf16(values.x[k][2]) | uint32_t{f32_to_bf16(values.x[k][3])} << 16;
    store_as<uint2>(row + size_t{2} * (16 * k + 4 * lane), make_uint2(low, high));
  }
}

// Values less the section's power of two; returns that power's exponent.
template <int kSixteens>
__device__ __forceinline__ int scale_down(const Job& job, Values<kSixteens>& values) {
  float largest = 0.0F;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) largest = fmaxf(largest, fabsf(values.x[k][j]));
  }
  if (job.token < job.first) largest = 0.0F;
  const int exponent = device_section_exponent(block_max(largest, job.scratch));
  const float down = power_of_two(-exponent);
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) values.x[k][j] = __fmul_rn(values.x[k][j], down);
  }
  return exponent;
}

// Sums over the valid tokens, in their order, of every channel. rows: [tokens][row_floats] in shared memory.
// sums: [dim].
template <int kSixteens>
__device__ __forceinline__ void sum_channels(const Job& job, const Values<kSixteens>& values, float* rows,
                                             float* sums) {
  constexpr uint32_t kDim = 16 * kSixteens;
  constexpr uint32_t kStride = row_floats(kDim);
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const float(&x)[4] = values.x[k];
    store_as<float4>(rows + size_t{job.token} * kStride + 16 * k + 4 * job.lane,
                     make_float4(x[0], x[1], x[2], x[3]));
  }
  __syncthreads();
  for (uint32_t c = threadIdx.x; c < kDim; c += blockDim.x) {
    float sum = job.first < job.shape.tokens ? rows[size_t{job.first} * kStride + c] : 0.0F;
#pragma unroll 8
    for (uint32_t t = job.first + 1; t < job.shape.tokens; ++t)
      sum = __fadd_rn(sum, rows[size_t{t} * kStride + c]);
    sums[c] = sum;
  }
}

// Sums become the means that a reader has; writes their codes, returns their step M.
__device__ __forceinline__ int fold_means(const Job& job, float* mean) {
  const uint32_t valid = job.shape.tokens - job.first;
  const float share = valid > 0 ? __fdiv_rn(1.0F, static_cast<float>(valid)) : 0.0F;
  float largest = 0.0F;
  __syncthreads();
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += blockDim.x) {
    mean[c] = __fmul_rn(mean[c], share);
    largest = fmaxf(largest, fabsf(mean[c]));
  }
  largest = block_max(largest, job.scratch);
  const bool negligible = valid == 0 || largest < kNegligible;
  const int step = negligible ? 0 : device_ceil_step(__fdiv_rn(largest, static_cast<float>(kLastMeanCode)));
  const float value = negligible ? 0.0F : device_step_value(step);
  for (uint32_t c = threadIdx.x; c < job.shape.dim; c += blockDim.x) {
    int code = 0;
    if (!negligible) code = __float2int_rn(__fdiv_rn(mean[c], value));
    code = min(max(code, -kLastMeanCode), kLastMeanCode);
    mean[c] = negligible ? 0.0F : __fmul_rn(static_cast<float>(code), value);
    job.meta[job.shape.tokens + c] = static_cast<uint8_t>(code);
  }
  __syncthreads();
  return step;
}

// FORMATS.md's sum16 of a token, from the four partial sums of each of its lanes.
__device__ __forceinline__ float sum_of_token(float (&p)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) p[j] = __fadd_rn(p[j], __shfl_xor_sync(kAllLanes, p[j], 2));
#pragma unroll
  for (int j = 0; j < 4; ++j) p[j] = __fadd_rn(p[j], __shfl_xor_sync(kAllLanes, p[j], 1));
  return __fadd_rn(__fadd_rn(p[0], p[2]), __fadd_rn(p[1], p[3]));
}

// Codes of four channels, a byte each.
template <int kSixteens>
struct Codes {
  uint32_t quad[kSixteens];
};

// Residuals to codes; returns the token's step, kNoStep where it is negligible. levels: [2^bits] in shared
// memory.
template <uint32_t kBits, int kSixteens>
__device__ __forceinline__ int fold_token(const Job& job, const float* mean, const float* levels,
                                          const uint8_t* search, Values<kSixteens>& values,
                                          Codes<kSixteens>& codes) {
  float energies[4];
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const auto four = load_as<float4>(mean + 16 * k + 4 * job.lane);
    const float means[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float r = __fsub_rn(values.x[k][j], means[j]);
      values.x[k][j] = r;
      const float square = __fmul_rn(r, r);
      energies[j] = k == 0 ? square : __fadd_rn(energies[j], square);
    }
  }
  const float energy = sum_of_token(energies);
  const float mean_square = __fmul_rn(energy, __fdiv_rn(1.0F, static_cast<float>(job.shape.dim)));
  constexpr float kUnit = level_table(kBits).unit;
  const float scale = __fdiv_rn(__fsqrt_rn(mean_square), kUnit);
  const bool negligible = job.token < job.first || scale < kNegligible;
  const float inverse = negligible ? 0.0F : __fdiv_rn(1.0F, scale);
  float products[4];
  float squares = 0.0F;  // an integer below 2^24
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    uint32_t fours[4];  // codes times four
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float r = values.x[k][j];
      fours[j] = LevelSearch<kBits, 16 * kSixteens>::find(search, __fmul_rn(r, inverse));
      const float level =
          *reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(levels) + fours[j]);
      const float product = __fmul_rn(r, level);
      products[j] = k == 0 ? product : __fadd_rn(products[j], product);
      squares += __fmul_rn(level, level);
    }
    codes.quad[k] = __byte_perm(__byte_perm(fours[0], fours[1], 0x0040U),
                                __byte_perm(fours[2], fours[3], 0x0040U), 0x5410U) >>
                    2;
  }
  const float product = sum_of_token(products);
  squares += __shfl_xor_sync(kAllLanes, squares, 1);
  squares += __shfl_xor_sync(kAllLanes, squares, 2);
  if (negligible) return kNoStep;
  return device_round_step(rotated_scale(energy, product, squares));
}

// Words of kWidth-bit fields of keys: 8 / kWidth quads of neighbouring channels each. quad_of(k): of the
// thread.
template <uint32_t kWidth, int kSixteens, typename QuadOf>
__device__ __forceinline__ void write_keys(const Job& job, uint8_t* plane, QuadOf quad_of) {
  constexpr uint32_t kQuads = 8 / kWidth;
  constexpr int kStep = kQuads == 8 ? 2 : 1;  // sixteens of a word
#pragma unroll
  for (int k = 0; k < kSixteens; k += kStep) {
    uint32_t word = quad_of(k) << (kWidth * (job.lane % kQuads));
    if constexpr (kQuads == 8) word |= quad_of(k + 1) << (kWidth * (4 + job.lane));
    if constexpr (kQuads >= 2) word |= __shfl_xor_sync(kAllLanes, word, 1);
    if constexpr (kQuads >= 4) word |= __shfl_xor_sync(kAllLanes, word, 2);
    // Every lane has the word of its quads: they take turns to write.
    constexpr uint32_t kSharers = kQuads < 4 ? kQuads : 4;
    if (job.lane % kSharers == static_cast<uint32_t>(k / kStep) % kSharers) {
      const uint32_t row = (4 * static_cast<uint32_t>(k) + job.lane) / kQuads;
      store_as<uint32_t>(plane + (size_t{row} * job.shape.tokens + job.token) * 4, word);
    }
  }
}

// The bytes of four tokens (lanes 4, 8 apart), of four channels each: each thread gets one channel's of all
// four.
__device__ __forceinline__ uint32_t transpose_bytes(uint32_t quad) {
  const uint32_t token = threadIdx.x / kLanesOfToken;
  uint32_t other = __shfl_xor_sync(kAllLanes, quad, 4);
  quad = __byte_perm(quad, other, token % 2 == 0 ? 0x6240U : 0x3715U);
  other = __shfl_xor_sync(kAllLanes, quad, 8);
  return __byte_perm(quad, other, token / 2 % 2 == 0 ? 0x5410U : 0x3276U);
}

// Words of kWidth-bit fields of values: 8 / kWidth quads of tokens each, of which a warp has two. parts:
// [tokens / 8] [dim] in shared memory, where words meet that several warps have a share of.
template <uint32_t kWidth, int kSixteens, typename QuadOf>
__device__ __forceinline__ void write_values(const Job& job, uint8_t* plane, uint32_t* parts,
                                             QuadOf quad_of) {
  constexpr uint32_t kQuads = 8 / kWidth;
  constexpr uint32_t kDim = 16 * kSixteens;
  constexpr uint32_t kShares = kQuads / 2;
  const uint32_t eight = job.token / 8;
  const uint32_t channel_of_four = job.token % 4;
  const uint32_t shift = kWidth * (job.token / 4 % kQuads);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    uint32_t quad = quad_of(k) << shift;
    quad |= __shfl_xor_sync(kAllLanes, quad, 16);
    const uint32_t word = transpose_bytes(quad);
    if (job.token / 4 % 2 == static_cast<uint32_t>(k) % 2)
      parts[eight * kDim + 16 * k + 4 * job.lane + channel_of_four] = word;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < job.shape.tokens / (8 * kShares) * kDim; i += blockDim.x) {
    const uint32_t* part = parts + size_t{i / kDim} * kShares * kDim + i % kDim;
    uint32_t word = part[0];
#pragma unroll
    for (uint32_t share = 1; share < kShares; ++share) word |= part[share * kDim];
    store_as<uint32_t>(plane + size_t{4} * i, word);
  }
}

template <uint32_t kWidth, int kSixteens, bool kKeys, typename QuadOf>
__device__ __forceinline__ void write_plane(const Job& job, uint8_t* plane, uint32_t* parts, QuadOf quad_of) {
  if constexpr (kKeys) {
    write_keys<kWidth, kSixteens>(job, plane, quad_of);
  } else {
    write_values<kWidth, kSixteens>(job, plane, parts, quad_of);
  }
}

template <int kSixteens>
__device__ __forceinline__ void load_values(const float* section, const Job& job, Values<kSixteens>& values) {
  const float* row = section + size_t{job.token} * 16 * kSixteens + 4 * job.lane;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const auto four = load_as<float4>(row + 16 * k);
    values.x[k][0] = four.x;
    values.x[k][1] = four.y;
    values.x[k][2] = four.z;
    values.x[k][3] = four.w;
  }
}

// Shared memory of a block.
struct Workplace {
  float* levels;
  float* mean;
  uint8_t* search;
  float* rows;
};

// Codes and meta of one side; returns its param.
template <uint32_t kBits, int kSixteens, bool kKeys>
__device__ __forceinline__ uint32_t fold_side(const Job& job, const Workplace& place,
                                              Values<kSixteens>& values) {
  const int exponent = scale_down(job, values);
  sum_channels(job, values, place.rows, place.mean);
  const int mean_step = fold_means(job, place.mean);
  Codes<kSixteens> codes;
  const int step = fold_token<kBits>(job, place.mean, place.levels, place.search, values, codes);
  const int largest = block_max(step, reinterpret_cast<int*>(job.scratch));
  const int scale_step = largest == kNoStep ? 0 : largest;
  const int scale_code = step == kNoStep ? 0 : max(step - scale_step + kLastScaleCode, 0);
  if (job.lane == 0) job.meta[job.token] = static_cast<uint8_t>(scale_code);
  const uint32_t kept = scale_code == 0 ? 0U : 0xFFFFFFFFU;
  auto* parts = reinterpret_cast<uint32_t*>(place.rows);
  if constexpr (kBits == 3) {
    uint8_t* upper = job.codes + size_t{job.shape.tokens} * job.shape.dim / 4;
    write_plane<2, kSixteens, kKeys>(job, job.codes, parts,
                                     [&](int k) { return codes.quad[k] & kept & 0x03030303U; });
    write_plane<1, kSixteens, kKeys>(job, upper, parts,
                                     [&](int k) { return codes.quad[k] >> 2 & kept & 0x01010101U; });
  } else {
    write_plane<kBits, kSixteens, kKeys>(job, job.codes, parts, [&](int k) { return codes.quad[k] & kept; });
  }
  const int lift = kStepsPerOctave * exponent;
  return (static_cast<uint32_t>(scale_step + lift) & 0xFFFFU) | static_cast<uint32_t>(mean_step + lift) << 16;
}

template <uint32_t kBits, int kSixteens, bool kKeys>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerProcessor)
    encode_rotated_kernel(const __grid_constant__ EncodeArgs args) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const SectionLayout& layout = args.format.layout;
  const SectionShape shape = args.format.shape;
  uint8_t* section = args.sections[blockIdx.x];

  Smem shared;
  float* scratch = shared.take<float>(32);
  Workplace place{};
  place.levels = shared.take<float>(16);
  place.mean = shared.take<float>(kDim);
  place.search = shared.take<uint8_t>(LevelSearch<kBits, kDim>::kBytes);
  place.rows = shared.take<float>(size_t{shape.tokens} * row_floats(kDim));

  const Job job{shape,
                args.format.sink_tokens,
                threadIdx.x / kLanesOfToken,
                threadIdx.x % kLanesOfToken,
                section + (kKeys ? layout.key_codes : layout.value_codes),
                section + (kKeys ? layout.key_meta : layout.value_meta),
                scratch};
  Values<kSixteens> values;
  load_values((kKeys ? args.keys : args.values) + size_t{blockIdx.x} * shape.tokens * kDim, job, values);
  if (threadIdx.x < 1U << kBits) {
    place.levels[threadIdx.x] = static_cast<float>(kLevelTables.levels[table_of(kBits)][threadIdx.x]);
  }
  LevelSearch<kBits, kDim>::fill(place.search);
  if (job.token < job.first) {
    uint8_t* sinks = section + (kKeys ? layout.sink_keys : layout.sink_values);
    write_sink(sinks + size_t{2} * job.token * kDim, job.lane, values);
    values = {};  // what comes of them is not looked at, but must be finite
  }
  const uint32_t param = fold_side<kBits, kSixteens, kKeys>(job, place, values);
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (kKeys ? 0 : 1)] = param;
  if constexpr (!kKeys) {
    const uint32_t used = layout.sink_values + 2 * job.first * kDim;
    for (uint32_t i = used + threadIdx.x; i < layout.bytes; i += blockDim.x) section[i] = 0;
  }
}

template <uint32_t kBits, int kSixteens, bool kKeys>
cudaError_t launch_side(const EncodeArgs& args, cudaStream_t stream) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const uint32_t tokens = args.format.shape.tokens;
  const size_t floats = 32 + 16 + kDim + size_t{tokens} * row_floats(kDim);
  const size_t shared = floats * sizeof(float) + LevelSearch<kBits, kDim>::kBytes;
  return launch({args.count, kLanesOfToken * tokens, shared, stream},
                encode_rotated_kernel<kBits, kSixteens, kKeys>, args);
}

template <uint32_t kBits, bool kKeys>
cudaError_t launch_dim(const EncodeArgs& args, cudaStream_t stream) {
  switch (args.format.shape.dim) {
    case 64:
      return launch_side<kBits, 4, kKeys>(args, stream);
    case 128:
      return launch_side<kBits, 8, kKeys>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

template <bool kKeys>
cudaError_t launch_bits(const EncodeArgs& args, cudaStream_t stream) {
  switch ((kKeys ? args.format.key : args.format.value).bits) {
    case 4:
      return launch_dim<4, kKeys>(args, stream);
    case 3:
      return launch_dim<3, kKeys>(args, stream);
    default:
      return launch_dim<2, kKeys>(args, stream);
  }
}

}  // namespace

cudaError_t encode_rotated(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const DeviceCodec& codec = side == Side::kKey ? args.format.key : args.format.value;
  if (codec.family != CodecFamily::kRotated || args.format.shape.tokens > kMaxTokens)
    return cudaErrorNotSupported;
  return side == Side::kKey ? launch_bits<true>(args, stream) : launch_bits<false>(args, stream);
}

}  // namespace quire::cuda
