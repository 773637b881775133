// Encoding of rotated codecs, one side of a section per block. A thread keeps its values in registers: four
// lanes have the channels of a token, four neighbours of every sixteen each, eight tokens make a warp. Only
// the means, which sum over tokens in their order, go through shared memory. All arithmetic and its order are
// FORMATS.md's (built with
// --fmad=false).
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/level_search.cuh"
#include "quant/cuda/section_means.cuh"

namespace quire::cuda {
namespace {

using namespace registers;

constexpr int kLastScaleCode = 255;
constexpr int kNoStep = -0x7FFFFFFF - 1;
constexpr uint32_t kBlocksPerProcessor = 3;

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
  write_codes<kBits, kSixteens, kKeys>(job, codes, kept, reinterpret_cast<uint32_t*>(place.rows));
  const int lift = kStepsPerOctave * exponent;
  return (static_cast<uint32_t>(scale_step + lift) & 0xFFFFU) | static_cast<uint32_t>(mean_step + lift) << 16;
}

template <uint32_t kBits, int kSixteens, bool kKeys>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerProcessor)
    encode_rotated_kernel(const __grid_constant__ EncodeArgs args) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const SectionShape shape = args.format.shape;
  Smem shared;
  float* scratch = shared.take<float>(32);
  Workplace place{};
  place.levels = shared.take<float>(16);
  place.mean = shared.take<float>(kDim);
  place.search = shared.take<uint8_t>(LevelSearch<kBits, kDim>::kBytes);
  place.rows = shared.take<float>(size_t{shape.tokens} * row_floats(kDim));

  Values<kSixteens> values;
  const Job job = start<kSixteens, kKeys, true>(args, scratch, values);
  if (threadIdx.x < 1U << kBits) {
    place.levels[threadIdx.x] = static_cast<float>(kLevelTables.levels[table_of(kBits)][threadIdx.x]);
  }
  LevelSearch<kBits, kDim>::fill(place.search);
  const uint32_t param = fold_side<kBits, kSixteens, kKeys>(job, place, values);
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (kKeys ? 0 : 1)] = param;
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
