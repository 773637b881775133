// Encoding of trellis codecs: one side of a section per block of any shape. A thread walks the chain of one
// lane with the costs of all states in its registers; which way led to each state, 32 bits an element, goes
// to shared memory and is followed back from the end. Every element costs 64 ways, whatever the codec.
#include "quant/cuda/encode_block.cuh"
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/trellis_tables.cuh"
#include "quant/scale_code.h"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr uint32_t kTokensAtOnce = kThreads / 16;
constexpr int kLastTarget = 127;
constexpr uint32_t kSurvivorWords = 8192;  // of lanes whose chains are walked at a time

// Calls body with 0, 1, .. kCount - 1 as constants.
template <int kCount, typename Body>
__device__ __forceinline__ void unrolled(Body body) {
  [&]<int... kI>(std::integer_sequence<int, kI...>) { (body(std::integral_constant<int, kI>{}), ...); }
  (std::make_integer_sequence<int, kCount>{});
}

template <uint32_t kBits>
struct Search {
  static constexpr Trellis kTrellis = trellis_of(kBits);
  static constexpr int kStates = static_cast<int>(kTrellis.states());
  static constexpr int kWays = 1 << kBits;
  // Above the cost of any path, which is below 2^24; times the number of ways still an int32_t.
  static constexpr int kClosed = (1 << 25) * kWays;

  static constexpr uint32_t window_of(uint32_t state, uint32_t way) {
    return state << kTrellis.history_bits | (way & ((1U << kTrellis.history_bits) - 1));
  }
  static constexpr uint32_t level_at(uint32_t state, uint32_t way) {
    return window_of(state, way) | way >> kTrellis.history_bits << kTrellis.window_bits;
  }
  static constexpr uint32_t before(uint32_t window) { return window & (kTrellis.states() - 1); }

  // The costs of the cheapest paths to each state, times the number of ways: the number of the way that is
  // added to a sum makes the first of equals the least, and tells which it was.
  int costs[kStates];

  // On to the next element, whose target is y; returns the ways into all states.
  __device__ __forceinline__ uint32_t advance(int y) {
    int next[kStates];
    uint32_t ways = 0;
    unrolled<kStates>([&](auto state) {
      int best = 0;
      unrolled<kWays>([&](auto way) {
        constexpr int kLevel = kTrellis.levels[level_at(decltype(state)::value, decltype(way)::value)];
        constexpr int kFixed = kLevel * kLevel * kWays + decltype(way)::value;
        constexpr int kPerTarget = -2 * kLevel * kWays;
        const int cost = costs[before(window_of(decltype(state)::value, decltype(way)::value))] +
                         (kPerTarget * y + kFixed);
        best = decltype(way)::value == 0 ? cost : min(best, cost);
      });
      next[decltype(state)::value] = best & ~(kWays - 1);
      ways |= static_cast<uint32_t>(best & (kWays - 1))
              << (static_cast<uint32_t>(decltype(state)::value) * kBits);
    });
    unrolled<kStates>([&](auto state) { costs[decltype(state)::value] = next[decltype(state)::value]; });
    return ways;
  }
  // Every state open, or one alone.
  __device__ __forceinline__ void open_all() {
    unrolled<kStates>([&](auto state) { costs[decltype(state)::value] = 0; });
  }
  __device__ __forceinline__ void open_only(uint32_t open) {
    unrolled<kStates>([&](auto state) {
      costs[decltype(state)::value] = static_cast<uint32_t>(decltype(state)::value) == open ? 0 : kClosed;
    });
  }
  // The first of the cheapest.
  __device__ __forceinline__ uint32_t best_state() const {
    uint32_t best = 0;
    int least = costs[0];
    unrolled<kStates>([&](auto state) {
      if (costs[decltype(state)::value] < least) {
        best = static_cast<uint32_t>(decltype(state)::value);
        least = costs[decltype(state)::value];
      }
    });
    return best;
  }
  __device__ __forceinline__ static uint32_t way_into(uint32_t ways, uint32_t state) {
    return ways >> (state * kBits) & (kWays - 1);
  }
};

// One lane: what stands in its column, [place][stride].
struct Column {
  int8_t* targets;      // become levels
  uint32_t* survivors;  // become codes
  uint32_t target_stride;
  uint32_t survivor_stride;
  uint32_t chain;
};

// The state in which the ring is closed. Called by single threads, as the next one.
template <uint32_t kBits>
__device__ __forceinline__ uint32_t find_seam(const Column& column) {
  using S = Search<kBits>;
  S search;
  search.open_all();
#pragma unroll 1
  for (uint32_t i = 0; i < 2 * kSeamReach; ++i) {
    const uint32_t place = i < kSeamReach ? column.chain - kSeamReach + i : i - kSeamReach;
    column.survivors[i * column.survivor_stride] =
        search.advance(column.targets[place * column.target_stride]);
  }
  uint32_t state = search.best_state();
  for (uint32_t i = 2 * kSeamReach; i-- > kSeamReach;) {
    const uint32_t way = S::way_into(column.survivors[i * column.survivor_stride], state);
    state = S::before(S::window_of(state, way));
  }
  return state;
}

// levels: [64] in shared memory.
template <uint32_t kBits>
__device__ __forceinline__ void code_lane(const Column& column, const int8_t* levels) {
  using S = Search<kBits>;
  constexpr Trellis kTrellis = S::kTrellis;
  uint32_t state = find_seam<kBits>(column);
  S search;
  search.open_only(state);
#pragma unroll 1
  for (uint32_t place = 0; place < column.chain; ++place) {
    column.survivors[place * column.survivor_stride] =
        search.advance(column.targets[place * column.target_stride]);
  }
  for (uint32_t place = column.chain; place-- > 0;) {
    uint32_t& survivor = column.survivors[place * column.survivor_stride];
    const uint32_t way = S::way_into(survivor, state);
    const uint32_t window = S::window_of(state, way);
    const uint32_t history = window >> (kTrellis.window_bits - kTrellis.history_bits);
    survivor = history << kTrellis.rest_bits | way >> kTrellis.history_bits;
    column.targets[place * column.target_stride] = levels[S::level_at(state, way)];
    state = S::before(window);
  }
}

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

// scale_code.h's encode_scales; `exponent` is added to the range.
__device__ __forceinline__ ScaleRange code_scales(const Job& job, const float* scales, int exponent) {
  float largest = 0.0F;
  float inverse_order = 0.0F;  // the largest bit pattern below that of infinity, less a scale's
  for (uint32_t t = threadIdx.x; t < job.shape.tokens; t += kThreads) {
    const float scale = scales[t];
    if (scale == 0.0F) continue;
    largest = fmaxf(largest, scale);
    inverse_order = fmaxf(inverse_order, __uint_as_float(0x7F7FFFFFU - __float_as_uint(scale)));
  }
  largest = block_max(largest, job.scratch);
  inverse_order = block_max(inverse_order, job.scratch);
  ScaleRange range{0, kFewestMantissaBits};
  int top = 0;
  if (largest > 0.0F) {
    const float smallest = __uint_as_float(0x7F7FFFFFU - __float_as_uint(inverse_order));
    uint32_t bits = kMostMantissaBits;
    while (bits > kFewestMantissaBits &&
           round_to_place(largest, bits) - round_to_place(smallest, bits) >= kLastScaleCode) {
      --bits;
    }
    top = round_to_place(largest, bits);
    range = {widen_place(top, bits), bits};
  }
  for (uint32_t t = threadIdx.x; t < job.shape.tokens; t += kThreads) {
    int code = 0;
    if (scales[t] > 0.0F) {
      code = max(round_to_place(scales[t], range.mantissa_bits) - top + kLastScaleCode, 0);
    }
    job.meta[t] = static_cast<uint8_t>(code);
  }
  range.largest += exponent * (1 << kMostMantissaBits);
  return range;
}

__device__ __forceinline__ void clear_side(const Job& job) {
  const uint32_t words = job.shape.tokens * job.shape.dim * job.codec.bits / 32;
  for (uint32_t w = threadIdx.x; w < words; w += kThreads) store_as<uint32_t>(job.codes + size_t{4} * w, 0U);
  for (uint32_t i = threadIdx.x; i < job.shape.tokens + job.shape.dim; i += kThreads) job.meta[i] = 0;
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
    param =
        pack_trellis_param(code_scales(job, place.scales, exponent), mean_step + kStepsPerOctave * exponent);
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
  switch (codec_of(args, side).bits) {
    case 4:
      return launch_bits<4>(args, side, stream);
    case 3:
      return launch_bits<3>(args, side, stream);
    case 2:
      return launch_bits<2>(args, side, stream);
    default:
      return launch_bits<1>(args, side, stream);
  }
}

}  // namespace quire::cuda
