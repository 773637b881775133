// Encoding of non-uniform codecs: one side of a section per block of any shape. Groups are channels of keys,
// which a thread each sums over tokens in their order, and tokens of values, which half a warp each sums over
// channels as sum16. All arithmetic and its order are FORMATS.md's (built with --fmad=false).
#include "quant/cuda/encode_block.cuh"
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/nuq_group.cuh"
#include "quant/cuda/nuq_tables.cuh"

namespace quire::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr uint32_t kMaxGroups = 256;
constexpr uint32_t kNoGroup = 0xFFFFU;

// Shared memory of a block.
struct Workplace {
  int8_t* levels;      // [16]
  float* thresholds;   // [15]
  float* first;        // [groups]: means of groups, then what codes are made with: midpoints
  float* second;       // [groups]: 1 / deviation, then 1 / unit
  float* fitted_unit;  // [groups]
  float* fitted_mid;   // [groups]
  uint16_t* outliers;  // [lanes]: the group of each, kNoGroup where there is none
};

template <bool kKeys>
struct Groups {
  const Job& job;
  const Workplace& place;

  __device__ __forceinline__ uint32_t count() const { return kKeys ? job.shape.dim : job.shape.tokens; }
  __device__ __forceinline__ uint32_t first() const { return kKeys ? 0 : job.first; }
  __device__ __forceinline__ uint32_t members() const {
    return kKeys ? job.shape.tokens - job.first : job.shape.dim;
  }
  __device__ __forceinline__ float at(uint32_t group, uint32_t lane) const {
    return kKeys ? job.scaled(lane, group) : job.scaled(group, lane);
  }
  // Whether this thread is one that a group's numbers are written by.
  __device__ __forceinline__ static bool writes() { return kKeys || threadIdx.x % 16 == 0; }

  // body(group) for all groups, by those threads that share one. Of values sinks come by, too: their groups
  // have members, but nothing that is kept of them.
  template <typename Body>
  __device__ __forceinline__ void each(Body body) const {
    constexpr uint32_t kThreadsOfGroup = kKeys ? 1 : 16;
    for (uint32_t g = threadIdx.x / kThreadsOfGroup; g < count(); g += kThreads / kThreadsOfGroup) body(g);
  }
  // body(lane) for this thread's share of a group's members.
  template <typename Body>
  __device__ __forceinline__ void each_member(Body body) const {
    if constexpr (kKeys) {
      for (uint32_t t = job.first; t < job.shape.tokens; ++t) body(t);
    } else {
      for (uint32_t c = threadIdx.x % 16; c < job.shape.dim; c += 16) body(c);
    }
  }
  template <typename Term>
  __device__ __forceinline__ float sum(Term term) const {
    if constexpr (kKeys) {
      float sum = term(job.first);
      for (uint32_t t = job.first + 1; t < job.shape.tokens; ++t) sum = __fadd_rn(sum, term(t));
      return sum;
    } else {
      return sum16(threadIdx.x % 16, job.shape.dim, term);
    }
  }
  __device__ __forceinline__ float largest(float value) const {
    if constexpr (!kKeys) {
      for (int offset = 8; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset, 16));
    }
    return value;
  }
  __device__ __forceinline__ bool is_outlier(uint32_t group, uint32_t lane) const {
    return place.outliers[lane] == group;
  }
  __device__ __forceinline__ uint32_t code(float value, float mid, float inverse) const {
    const float y = __fmul_rn(__fsub_rn(value, mid), inverse);
    uint32_t code = 0;
    for (uint32_t i = 0; i + 1 < 1U << job.codec.bits; ++i) code += place.thresholds[i] < y ? 1U : 0U;
    return code;
  }
};

// Means and deviations of all groups, to place.first and place.second.
template <bool kKeys>
__device__ __forceinline__ void measure_groups(const Groups<kKeys>& groups) {
  const float share = __fdiv_rn(1.0F, static_cast<float>(groups.members()));
  groups.each([&](uint32_t g) {
    const float mean = __fmul_rn(groups.sum([&](uint32_t lane) { return groups.at(g, lane); }), share);
    const float squares = groups.sum([&](uint32_t lane) {
      const float from_mean = __fsub_rn(groups.at(g, lane), mean);
      return __fmul_rn(from_mean, from_mean);
    });
    if (!groups.writes()) return;
    groups.place.first[g] = mean;
    groups.place.second[g] = nuq_inverse_deviation(squares, share);
  });
  __syncthreads();
}

// The group in which each lane lies farthest out: a warp per lane of keys, a thread per lane of values.
template <bool kKeys>
__device__ __forceinline__ void find_outliers(const Groups<kKeys>& groups) {
  const Job& job = groups.job;
  const auto distance = [&](uint32_t g, uint32_t lane) {
    return __fmul_rn(fabsf(__fsub_rn(groups.at(g, lane), groups.place.first[g])), groups.place.second[g]);
  };
  constexpr uint32_t kThreadsOfLane = kKeys ? kWarpLanes : 1;
  const uint32_t lanes = job.lanes();
  for (uint32_t lane = threadIdx.x / kThreadsOfLane; lane < lanes; lane += kThreads / kThreadsOfLane) {
    float farthest = -1.0F;
    uint32_t group = kNoGroup;
    for (uint32_t g = groups.first() + threadIdx.x % kThreadsOfLane; g < groups.count();
         g += kThreadsOfLane) {
      const float far = distance(g, lane);
      if (!(farthest < far)) continue;
      farthest = far;
      group = g;
    }
    for (uint32_t offset = kThreadsOfLane / 2; offset > 0; offset /= 2) {
      const float far = __shfl_xor_sync(kAllLanes, farthest, static_cast<int>(offset));
      const uint32_t other = __shfl_xor_sync(kAllLanes, group, static_cast<int>(offset));
      if (far < farthest || (far == farthest && group <= other)) continue;
      farthest = far;
      group = other;
    }
    const bool is_sink = kKeys && lane < job.first;
    if (threadIdx.x % kThreadsOfLane == 0) {
      groups.place.outliers[lane] = static_cast<uint16_t>(is_sink ? kNoGroup : group);
    }
  }
  __syncthreads();
}

// Scale and midpoint by the range of the members that are no outliers, or of all where nothing else is left.
template <bool kKeys>
__device__ __forceinline__ NuqGroup range_members(const Groups<kKeys>& groups, uint32_t g) {
  float high = -INFINITY;
  float low = -INFINITY;  // of the values with their signs turned
  float kept_high = -INFINITY;
  float kept_low = -INFINITY;
  groups.each_member([&](uint32_t lane) {
    const float value = groups.at(g, lane);
    high = fmaxf(high, value);
    low = fmaxf(low, -value);
    if (groups.is_outlier(g, lane)) return;
    kept_high = fmaxf(kept_high, value);
    kept_low = fmaxf(kept_low, -value);
  });
  high = groups.largest(high);
  low = -groups.largest(low);
  kept_high = groups.largest(kept_high);
  kept_low = -groups.largest(kept_low);
  if (kept_low <= kept_high) {
    high = kept_high;
    low = kept_low;
  }
  return nuq_ranged(low, high);
}

// What the members that are no outliers, folded into a group of this scale and midpoint, add up to.
template <bool kKeys>
__device__ __forceinline__ NuqSums sum_members(const Groups<kKeys>& groups, uint32_t g,
                                               const NuqGroup& ranged) {
  const float mid = ranged.mid();
  const float inverse = ranged.inverse();
  const auto sum = [&](auto term) {
    return groups.sum(
        [&](uint32_t lane) { return groups.is_outlier(g, lane) ? 0.0F : term(groups.at(g, lane)); });
  };
  const auto level_of = [&](float value) {
    return static_cast<float>(groups.place.levels[groups.code(value, mid, inverse)]);
  };
  NuqSums sums{};
  sums.count = sum([](float) { return 1.0F; });
  sums.levels = sum(level_of);
  sums.squares = sum([&](float value) {
    const float level = level_of(value);
    return __fmul_rn(level, level);
  });
  sums.values = sum([&](float value) { return __fsub_rn(value, mid); });
  sums.energy = sum([&](float value) {
    const float d = __fsub_rn(value, mid);
    return __fmul_rn(d, d);
  });
  return sums;
}

// Scales and midpoints of all groups: to meta as fitted, to place as codes and outliers need them.
template <bool kKeys>
__device__ __forceinline__ void fold_groups(const Groups<kKeys>& groups) {
  uint8_t* meta = groups.job.meta;
  const Workplace& place = groups.place;
  groups.each([&](uint32_t g) {
    const NuqGroup ranged = range_members(groups, g);
    const NuqGroup fitted = nuq_fitted(sum_members(groups, g, ranged), ranged);
    if (!groups.writes()) return;
    const bool is_sink = g < groups.first();
    store_as<uint16_t>(meta + size_t{2} * g, static_cast<uint16_t>(is_sink ? 0U : fitted.scale_bits));
    store_as<uint16_t>(meta + size_t{2} * (groups.count() + g),
                       static_cast<uint16_t>(is_sink ? 0U : fitted.mid_bits));
    place.first[g] = ranged.mid();
    place.second[g] = ranged.inverse();
    place.fitted_unit[g] = fitted.unit();
    place.fitted_mid[g] = fitted.mid();
  });
  __syncthreads();
}

// The values that are kept apart, less what their codes stand for.
template <bool kKeys>
__device__ __forceinline__ void write_outliers(const Groups<kKeys>& groups) {
  const Workplace& place = groups.place;
  uint8_t* outliers = groups.job.meta + size_t{4} * groups.count();
  for (uint32_t lane = threadIdx.x; lane < groups.job.lanes(); lane += kThreads) {
    const uint32_t g = place.outliers[lane];
    uint32_t stored = 0;
    if (g != kNoGroup) {
      const float value = groups.at(g, lane);
      const auto level =
          static_cast<float>(place.levels[groups.code(value, place.first[g], place.second[g])]);
      const float folded = __fadd_rn(__fmul_rn(level, place.fitted_unit[g]), place.fitted_mid[g]);
      stored = nuq_outlier(g, __fsub_rn(value, folded));
    }
    store_as<uint16_t>(outliers + size_t{2} * lane, static_cast<uint16_t>(stored));
  }
}

template <bool kKeys>
__device__ __forceinline__ void encode_groups(const Job& job, const Workplace& place, bool outliers) {
  const Groups<kKeys> groups{job, place};
  for (uint32_t lane = threadIdx.x; lane < job.lanes(); lane += kThreads) place.outliers[lane] = kNoGroup;
  __syncthreads();
  if (outliers) {
    measure_groups(groups);
    find_outliers(groups);
  }
  fold_groups(groups);
  if (outliers) write_outliers(groups);
  write_codes(job, [&](uint32_t token, uint32_t channel) {
    const uint32_t g = kKeys ? channel : token;
    return groups.code(job.scaled(token, channel), place.first[g], place.second[g]);
  });
}

// Nothing is valid: all zeros.
__device__ __forceinline__ void clear_side(const Job& job, uint32_t meta_bytes) {
  const uint32_t words = job.shape.tokens * job.shape.dim * job.codec.bits / 32;
  for (uint32_t w = threadIdx.x; w < words; w += kThreads) store_as<uint32_t>(job.codes + size_t{4} * w, 0U);
  for (uint32_t i = threadIdx.x; i < meta_bytes; i += kThreads) job.meta[i] = 0;
}

template <bool kKeys>
__global__ void __launch_bounds__(kThreads, 2)
    encode_nonuniform_kernel(const __grid_constant__ EncodeArgs args, bool outliers, uint32_t meta_bytes) {
  uint8_t* section = args.sections[blockIdx.x];
  Smem shared;
  float* scratch = shared.take<float>(32);
  Job job = make_job(args, kKeys, section, scratch);
  const Workplace place{shared.take<int8_t>(16),          shared.take<float>(16),
                        shared.take<float>(kMaxGroups),   shared.take<float>(kMaxGroups),
                        shared.take<float>(kMaxGroups),   shared.take<float>(kMaxGroups),
                        shared.take<uint16_t>(kMaxGroups)};
  const uint32_t levels = 1U << job.codec.bits;
  constexpr Side kSide = kKeys ? Side::kKey : Side::kValue;
  if (threadIdx.x < levels) {
    const int8_t level = nuq_level(args.format, kSide, threadIdx.x);
    place.levels[threadIdx.x] = level;
    if (threadIdx.x + 1 < levels) {
      const int next = nuq_level(args.format, kSide, threadIdx.x + 1);
      place.thresholds[threadIdx.x] = __fmul_rn(0.5F, static_cast<float>(level + next));
    }
  }
  write_sinks_and_padding(args, job, section);
  int exponent = 0;
  if (job.first == job.shape.tokens) {
    clear_side(job, meta_bytes);
  } else {
    exponent = find_exponent(job);
    job.down = power_of_two(-exponent);
    encode_groups<kKeys>(job, place, outliers);
  }
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + (kKeys ? 0 : 1)] = static_cast<uint32_t>(exponent);
}

}  // namespace

cudaError_t encode_nonuniform(const EncodeArgs& args, Side side, cudaStream_t stream) {
  const CodecInfo& codec = *find_codec(codec_of(args, side).id);
  if (codec.family != CodecFamily::kNonUniform) return cudaErrorNotSupported;
  const auto meta = static_cast<uint32_t>(meta_bytes(codec, side, args.format.shape));
  constexpr size_t kBytes = (32 + 16 + 4 * kMaxGroups) * sizeof(float) + 16 + kMaxGroups * sizeof(uint16_t);
  const LaunchShape shape{args.count, kThreads, kBytes, stream};
  if (side == Side::kKey) return launch(shape, encode_nonuniform_kernel<true>, args, codec.outliers, meta);
  return launch(shape, encode_nonuniform_kernel<false>, args, codec.outliers, meta);
}

}  // namespace quire::cuda
