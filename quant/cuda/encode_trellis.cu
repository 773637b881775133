// Encoding of trellis codecs: one side of a section per block of any shape. A thread walks the chain of one
// lane (trellis_search.cuh).
#include "quant/cuda/encode_block.cuh"
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/trellis_scales.cuh"
#include "quant/cuda/trellis_search.cuh"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr uint32_t kTokensAtOnce = kThreads / 16;
constexpr uint32_t kSurvivorWords = 8192;  // of lanes whose chains are walked at a time

// Shared memory of a block.
struct Workplace {
  float* mean;          // [dim]
  float* scales;        // [tokens]: of targets, then the tokens' own; 0 where there is none
  float* energies;      // [tokens]
  int8_t* levels;       // [64]
  int8_t* grid;         // [place][lanes]: targets, then levels
  uint32_t* survivors;  // [place][lanes of a turn]
};

// Where the element of a token and channel stands in the grid.
__device__ __forceinline__ uint32_t grid_index(const Job& job, uint32_t token, uint32_t channel) {
  const uint32_t r = job.is_key ? channel : token;
  const uint32_t place = r % 4 * (job.reductions() / 4) + r / 4;
  return place * job.lanes() + (job.is_key ? token : channel);
}

__device__ __forceinline__ float residual(const Job& job, const float* mean, uint32_t token,
                                          uint32_t channel) {
  return __fsub_rn(job.scaled(token, channel), mean[channel]);
}

// Half a warp per token; tokens are a multiple of what the block takes at a time, so no lane is ever missing.
__device__ __forceinline__ void set_targets(const Job& job, const Workplace& place) {
  const uint32_t lane = threadIdx.x % 16;
  const uint32_t dim = job.shape.dim;
  for (uint32_t t = threadIdx.x / 16; t < job.shape.tokens; t += kTokensAtOnce) {
    const float energy = sum16(lane, dim, [&](uint32_t c) {
      const float r = residual(job, place.mean, t, c);
      return __fmul_rn(r, r);
    });
    const float mean_square = __fmul_rn(energy, __fdiv_rn(1.0F, static_cast<float>(dim)));
    const float scale = __fdiv_rn(__fsqrt_rn(mean_square), kTrellisUnit);
    const bool none = t < job.first || scale < kNegligible;
    const float inverse = none ? 0.0F : __fdiv_rn(1.0F, scale);
    for (uint32_t c = lane; c < dim; c += 16) {
      int target = none ? 0 : __float2int_rn(__fmul_rn(residual(job, place.mean, t, c), inverse));
      target = min(max(target, -kLastTarget), kLastTarget);
      place.grid[grid_index(job, t, c)] = static_cast<int8_t>(target);
    }
    if (lane != 0) continue;
    place.scales[t] = none ? 0.0F : scale;
    place.energies[t] = energy;
  }
  __syncthreads();
}

template <uint32_t kBits>
__device__ __forceinline__ void search_lanes(const Job& job, const Workplace& place) {
  const uint32_t at_once = min(min(job.lanes(), kThreads), kSurvivorWords / job.reductions() / 32 * 32);
  const uint32_t quads = job.reductions() / 4;
  for (uint32_t first = 0; first < job.lanes(); first += at_once) {
    const uint32_t count = min(at_once, job.lanes() - first);
    if (threadIdx.x < count) {
      code_lane<kBits>({place.grid + first + threadIdx.x, place.survivors + threadIdx.x, job.lanes(), at_once,
                        job.reductions()},
                       place.levels);
    }
    __syncthreads();
    const uint32_t* codes = place.survivors;
    write_lanes(job, {first, count}, [=](uint32_t r, uint32_t lane) {
      return codes[(r % 4 * quads + r / 4) * at_once + lane - first];
    });
    __syncthreads();
  }
}

__device__ __forceinline__ void fit_scales(const Job& job, const Workplace& place) {
  const uint32_t lane = threadIdx.x % 16;
  for (uint32_t t = threadIdx.x / 16; t < job.shape.tokens; t += kTokensAtOnce) {
    const float products = sum16(lane, job.shape.dim, [&](uint32_t c) {
      const auto level = static_cast<float>(place.grid[grid_index(job, t, c)]);
      return __fmul_rn(residual(job, place.mean, t, c), level);
    });
    const float scale = place.scales[t];
    __syncwarp();
    if (lane == 0 && scale > 0.0F) place.scales[t] = trellis_scale(place.energies[t], products, scale);
  }
  __syncthreads();
}

template <uint32_t kBits>
__global__ void __launch_bounds__(kThreads, 4)
    encode_trellis_kernel(const __grid_constant__ EncodeArgs args, bool is_key) {
  uint8_t* section = args.sections[blockIdx.x];
  Smem shared;
  float* scratch = shared.take<float>(32);
  Job job = make_job(args, is_key, section, scratch);
  Workplace place{};
  place.mean = shared.take<float>(job.shape.dim);
  place.scales = shared.take<float>(job.shape.tokens);
  place.energies = shared.take<float>(job.shape.tokens);
  place.levels = shared.take<int8_t>(kTrellisLevels);
  place.grid = shared.take<int8_t>(size_t{job.shape.tokens} * job.shape.dim);
  place.survivors = shared.take<uint32_t>(kSurvivorWords);
  if (threadIdx.x < kTrellisLevels) {
    place.levels[threadIdx.x] = kTrellisTables.levels[kBits - 1][threadIdx.x];
  }
  write_sinks_and_padding(args, job, section);
  uint32_t param = 0;
  if (job.first == job.shape.tokens) {
    clear_side(job);
  } else {
    const int exponent = find_exponent(job);
    job.down = power_of_two(-exponent);
    const int mean_step = encode_mean(job, place.mean);
    set_targets(job, place);
    search_lanes<kBits>(job, place);
    fit_scales(job, place);
    param = pack_trellis_param(code_scales(job.shape.tokens, place.scales, exponent, job.meta, job.scratch),
                               mean_step + kStepsPerOctave * exponent);
  }
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (is_key ? 0 : 1)] = param;
}

template <uint32_t kBits>
cudaError_t launch_bits(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const SectionShape shape = args.format.shape;
  const size_t bytes = (32 + shape.dim + 2 * shape.tokens + kSurvivorWords) * sizeof(float) + kTrellisLevels +
                       size_t{shape.tokens} * shape.dim;
  return launch({args.count, kThreads, bytes, stream}, encode_trellis_kernel<kBits>, args,
                side == Side::kKey);
}

}  // namespace

cudaError_t encode_trellis(const EncodeArgs& args, Side side, cudaStream_t stream) {
  if (codec_of(args, side).family != CodecFamily::kTrellis) return cudaErrorNotSupported;
  return with_trellis_bits(codec_of(args, side).bits,
                           [&](auto bits) { return launch_bits<decltype(bits)::value>(args, side, stream); });
}

}  // namespace quire::cuda
