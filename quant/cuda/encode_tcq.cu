// Encoding of trellis codecs at head_dim 64 and 128 with values in registers (encode_registers.cuh): four
// lanes have a token, whose energy and products they sum; targets go to the chains of lanes through shared
// memory and levels come back that way. All arithmetic and its order are FORMATS.md's (built with
// --fmad=false).
#include "quant/cuda/encode_block.cuh"
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/section_means.cuh"
#include "quant/cuda/trellis_scales.cuh"
#include "quant/cuda/trellis_search.cuh"

namespace quire::cuda {
namespace {

using registers::kMaxThreads;
using registers::Values;

// Thirty-two states take more registers, and so does the rotation of values that are read once more.
constexpr uint32_t blocks_per_processor(uint32_t bits, bool rotate) { return bits == 1 || rotate ? 2 : 3; }

// Shared memory of a block.
struct Workplace {
  float* mean;          // [dim]
  float* scales;        // [tokens]; 0 where there is none
  int8_t* levels;       // [64]
  int8_t* grid;         // [place of a chain][lanes]: targets, then levels
  uint32_t* survivors;  // [place][lanes]: ways, then codes
  float* rows;          // [tokens][row_floats], where survivors stand later
};

// Where the thread's value 4 k + j, whose channel is 16 k + 4 l + j, stands in the grid; of values the four
// of a k are neighbours.
template <int kSixteens, bool kKeys>
__device__ __forceinline__ uint32_t grid_index(const registers::Job& job, int k, int j) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const uint32_t channel = 16 * static_cast<uint32_t>(k) + 4 * job.lane + static_cast<uint32_t>(j);
  const uint32_t tokens = job.shape.tokens;
  if constexpr (kKeys) return (channel % 4 * (kDim / 4) + channel / 4) * tokens + job.token;
  return (job.token % 4 * (tokens / 4) + job.token / 4) * kDim + channel;
}

// Values less the means of their channels.
template <int kSixteens>
__device__ __forceinline__ void take_means(const registers::Job& job, const float* mean,
                                           Values<kSixteens>& values) {
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const auto four = load_as<float4>(mean + 16 * k + 4 * job.lane);
    const float means[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) values.x[k][j] = __fsub_rn(values.x[k][j], means[j]);
  }
}

// What a token's targets were scaled by, 0 where it has none.
struct TokenScale {
  float energy;
  float scale;
};

// Targets of residuals, to the grid.
template <int kSixteens, bool kKeys>
__device__ __forceinline__ TokenScale set_targets(const registers::Job& job,
                                                  const Values<kSixteens>& residuals, int8_t* grid) {
  float energies[4] = {};
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      energies[j] = __fadd_rn(energies[j], __fmul_rn(residuals.x[k][j], residuals.x[k][j]));
    }
  }
  const float energy = registers::sum_of_token(energies);
  const float mean_square = __fmul_rn(energy, 1.0F / static_cast<float>(16 * kSixteens));
  const float scale = __fdiv_rn(__fsqrt_rn(mean_square), kTrellisUnit);
  const bool none = job.token < job.first || scale < kNegligible;
  const float inverse = none ? 0.0F : __fdiv_rn(1.0F, scale);
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    uint32_t target[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      constexpr auto kLast = static_cast<float>(kLastTarget);
      const float y = __fmul_rn(residuals.x[k][j], inverse);
      // 1.5 * 2^23: what is added rounds to an integer, ties to even.
      target[j] = __float_as_uint(__fadd_rn(fminf(fmaxf(y, -kLast), kLast), 12582912.0F));
      if constexpr (kKeys) grid[grid_index<kSixteens, true>(job, k, j)] = static_cast<int8_t>(target[j]);
    }
    if constexpr (!kKeys) {
      const uint32_t quad = __byte_perm(__byte_perm(target[0], target[1], 0x0040U),
                                        __byte_perm(target[2], target[3], 0x0040U), 0x5410U);
      store_as<uint32_t>(grid + grid_index<kSixteens, false>(job, k, 0), quad);
    }
  }
  return {energy, none ? 0.0F : scale};
}

// The products of a token's residuals with its levels, which stand in the grid. Values come from memory once
// more: a walk along a chain takes the registers.
template <int kSixteens, bool kKeys, bool kRotate>
__device__ __forceinline__ float sum_products(const EncodeInput& input, const registers::Job& job, float down,
                                              const float* mean, const int8_t* grid) {
  Values<kSixteens> values;
  registers::load_input<kRotate>(input, job, values);
  float sums[4] = {};
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const float(&x)[4] = values.x[k];
    const auto means = load_as<float4>(mean + 16 * k + 4 * job.lane);
    const float residuals[4] = {
        __fsub_rn(__fmul_rn(x[0], down), means.x), __fsub_rn(__fmul_rn(x[1], down), means.y),
        __fsub_rn(__fmul_rn(x[2], down), means.z), __fsub_rn(__fmul_rn(x[3], down), means.w)};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const auto level = static_cast<float>(grid[grid_index<kSixteens, kKeys>(job, k, j)]);
      sums[j] = __fadd_rn(sums[j], __fmul_rn(residuals[j], level));
    }
  }
  return registers::sum_of_token(sums);
}

// Codes of all lanes, to survivors, and levels, to the grid. Where warps are left over, which ones have lanes
// changes from section to section, so that every scheduler of a multiprocessor has some.
template <uint32_t kBits>
__device__ __forceinline__ void code_lanes(const Workplace& place, uint32_t lanes, uint32_t chain) {
  const uint32_t lane = threadIdx.x - blockIdx.x % (blockDim.x / lanes) * lanes;
  if (lane < lanes) {
    code_lane<kBits>({place.grid + lane, place.survivors + lane, lanes, lanes, chain}, place.levels);
  }
  __syncthreads();
}

template <uint32_t kBits, int kSixteens, bool kKeys, bool kRotate>
__device__ __forceinline__ uint32_t fold_side(const EncodeArgs& args, const registers::Job& job,
                                              const Workplace& place, Values<kSixteens>& values) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const uint32_t tokens = job.shape.tokens;
  const int exponent = registers::scale_down(job, values);
  registers::sum_channels(job, values, place.rows, place.mean);
  const int mean_step = registers::fold_means(job, place.mean);
  take_means(job, place.mean, values);
  const TokenScale token = set_targets<kSixteens, kKeys>(job, values, place.grid);
  __syncthreads();
  const uint32_t lanes = kKeys ? tokens : kDim;
  const uint32_t chain = kKeys ? kDim : tokens;
  code_lanes<kBits>(place, lanes, chain);
  const Job planes = make_job(args, kKeys, args.sections[blockIdx.x], job.scratch);
  const float products = sum_products<kSixteens, kKeys, kRotate>(
      input_of(args, kKeys), job, power_of_two(-exponent), place.mean, place.grid);
  if (job.lane == 0) {
    place.scales[job.token] = token.scale > 0.0F ? trellis_scale(token.energy, products, token.scale) : 0.0F;
  }
  const uint32_t* codes = place.survivors;
  write_lanes(planes, {0, lanes},
              [=](uint32_t r, uint32_t lane) { return codes[(r % 4 * (chain / 4) + r / 4) * lanes + lane]; });
  __syncthreads();
  const ScaleRange range = code_scales(tokens, place.scales, exponent, job.meta, job.scratch);
  return pack_trellis_param(range, mean_step + kStepsPerOctave * exponent);
}

template <uint32_t kBits, int kSixteens, bool kKeys, bool kRotate>
__global__ void __launch_bounds__(kMaxThreads, blocks_per_processor(kBits, kRotate))
    encode_tcq_kernel(const __grid_constant__ EncodeArgs args) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const uint32_t tokens = args.format.shape.tokens;
  Smem shared;
  float* scratch = shared.take<float>(32);
  Workplace place{};
  place.mean = shared.take<float>(kDim);
  place.scales = shared.take<float>(tokens);
  place.levels = shared.take<int8_t>(kTrellisLevels);
  place.grid = shared.take<int8_t>(tokens * kDim);
  place.rows = shared.take<float>(size_t{tokens} * registers::row_floats(kDim));
  place.survivors = reinterpret_cast<uint32_t*>(place.rows);
  Values<kSixteens> values;
  const registers::Job job = registers::start<kSixteens, kKeys, kRotate>(args, scratch, values);
  if (threadIdx.x < kTrellisLevels) {
    place.levels[threadIdx.x] = kTrellisTables.levels[kBits - 1][threadIdx.x];
  }
  uint32_t param = 0;
  if (job.first == tokens) {
    clear_side(make_job(args, kKeys, args.sections[blockIdx.x], scratch));
  } else {
    param = fold_side<kBits, kSixteens, kKeys, kRotate>(args, job, place, values);
  }
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (kKeys ? 0 : 1)] = param;
}

template <uint32_t kBits, int kSixteens, bool kKeys>
cudaError_t launch_side(const EncodeArgs& args, cudaStream_t stream) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const uint32_t tokens = args.format.shape.tokens;
  const size_t bytes = (32 + kDim + tokens + size_t{tokens} * registers::row_floats(kDim)) * sizeof(float) +
                       kTrellisLevels + size_t{tokens} * kDim;
  return launch({args.count, registers::kLanesOfToken * tokens, bytes, stream},
                input_of(args, kKeys).rotate ? encode_tcq_kernel<kBits, kSixteens, kKeys, true>
                                             : encode_tcq_kernel<kBits, kSixteens, kKeys, false>,
                args);
}

template <uint32_t kBits>
cudaError_t launch_bits(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const bool key = side == Side::kKey;
  if (args.format.shape.dim == 128) {
    return key ? launch_side<kBits, 8, true>(args, stream) : launch_side<kBits, 8, false>(args, stream);
  }
  return key ? launch_side<kBits, 4, true>(args, stream) : launch_side<kBits, 4, false>(args, stream);
}

}  // namespace

cudaError_t encode_tcq(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const SectionShape shape = args.format.shape;
  if (shape.tokens > registers::kMaxTokens || (shape.dim != 64 && shape.dim != 128)) {
    return cudaErrorNotSupported;
  }
  return with_trellis_bits(codec_of(args, side).bits,
                           [&](auto bits) { return launch_bits<decltype(bits)::value>(args, side, stream); });
}

}  // namespace quire::cuda
