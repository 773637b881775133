// Encoding of values in non-uniform codecs with values in registers (encode_registers.cuh): a token, which is
// a group, lies in four lanes. Only outliers, one of each channel, are searched across tokens. All arithmetic
// and its order are FORMATS.md's (built with --fmad=false).
#include "quant/cuda/encode_sides.h"
#include "quant/cuda/nuq_outliers.cuh"

namespace quire::cuda {
namespace {

using namespace registers;

constexpr uint32_t kBlocksPerProcessor = 3;

// Shared memory of a block.
struct Workplace {
  NuqSearch* search;
  float* rows;  // what write_values needs; with outliers [tokens][row_floats] of distances
  // With outliers:
  float4* groups;         // [tokens]
  uint32_t* left_out;     // [threads]
  Candidate* candidates;  // [threads]
};

// The outlier of channel threadIdx.x, in threads that have one; in left_out those of each thread's values.
template <int kSixteens>
__device__ __forceinline__ uint32_t find_outliers(const Job& job, const Workplace& place,
                                                  const Values<kSixteens>& values,
                                                  LeftOut<kSixteens>& left_out) {
  constexpr uint32_t kDim = 16 * kSixteens;
  constexpr uint32_t kStride = row_floats(kDim);
  constexpr float kShare = 1.0F / static_cast<float>(kDim);
  GroupSpread spread = spread_of<false>(values, mean_of<false>(values, kShare), kShare);
  if (job.token < job.first) spread = {1.0F, -1.0F};  // sinks, which are zeros, are nearer than anything
  Values<kSixteens> distances;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) distances.x[k][j] = spread.distance(values.x[k][j]);
  }
  store_row(job, distances, place.rows);
  place.left_out[threadIdx.x] = 0;
  __syncthreads();

  constexpr uint32_t kTokensOfPart = kDim / kLanesOfToken;
  const uint32_t channel = threadIdx.x % kDim;
  const uint32_t first = threadIdx.x / kDim * kTokensOfPart;
  const float* column = place.rows + first * kStride + channel;
  Candidate best = farthest_member<kTokensOfPart / 4>([&](uint32_t i) {
    const float* at = column + 4 * i * kStride;
    return make_float4(at[0], at[kStride], at[2 * kStride], at[3 * kStride]);
  });
  best.group = best.distance < 0.0F ? kNoGroup : first + best.group;
  place.candidates[threadIdx.x] = best;
  __syncthreads();
  if (threadIdx.x < kDim) {
#pragma unroll 1
    for (uint32_t other = channel + kDim; other < blockDim.x; other += kDim)
      best.merge(place.candidates[other]);
    if (best.group != kNoGroup) {
      const uint32_t thread = best.group * kLanesOfToken + channel % 16 / 4;
      atomicOr(place.left_out + thread, 1U << (channel / 16 * 4 + channel % 4));
    }
  }
  __syncthreads();
  left_out.bits[0] = place.left_out[threadIdx.x];
  return best.group;
}

// The outlier of channel threadIdx.x as stored.
template <uint32_t kDim>
__device__ __forceinline__ void write_outliers(const Job& job, const Workplace& place, const InputRows& rows,
                                               float down, uint32_t group) {
  __syncthreads();
  const uint32_t channel = threadIdx.x;
  if (channel >= kDim) return;
  uint32_t stored = 0;
  if (group != kNoGroup) {
    const float value = __fmul_rn(rows(group, channel), down);
    stored = fold_outlier(group, value, place.groups, *place.search);
  }
  store_as<uint16_t>(job.meta + size_t{4} * job.shape.tokens + size_t{2} * channel,
                     static_cast<uint16_t>(stored));
}

// Those of sinks, which are zeros, come to 0.
__device__ __forceinline__ void write_group(const Job& job, const NuqGroup& group) {
  if (job.lane != 0) return;
  store_as<uint16_t>(job.meta + size_t{2} * job.token, static_cast<uint16_t>(group.scale_bits));
  store_as<uint16_t>(job.meta + size_t{2} * (job.shape.tokens + job.token),
                     static_cast<uint16_t>(group.mid_bits));
}

// A token's range is that of all its values, and gives the largest magnitude, too: sinks are zeros.
template <int kSixteens>
__device__ __forceinline__ int fold_plain(const Job& job, const Workplace& place,
                                          const Values<kSixteens>& values, Codes<kSixteens>& codes) {
  const GroupRange range = range_of<false>(values, NoneLeftOut{});
  const int exponent = device_section_exponent(block_max(fmaxf(range.high, -range.low), job.scratch));
  const float down = power_of_two(-exponent);
  const NuqGroup ranged = nuq_ranged(__fmul_rn(range.low, down), __fmul_rn(range.high, down));
  const NuqSums sums =
      fold_members<false>(values, down, NoneLeftOut{}, GroupUnits(ranged), *place.search, codes);
  write_group(job, nuq_fitted(sums, ranged));
  return exponent;
}

template <int kSixteens>
__device__ __forceinline__ int fold_with_outliers(const Job& job, const Workplace& place,
                                                  const InputRows& rows, Values<kSixteens>& values,
                                                  Codes<kSixteens>& codes) {
  const int exponent = scale_down(job, values);
  LeftOut<kSixteens> left_out;
  const uint32_t outlier = find_outliers(job, place, values, left_out);
  GroupRange range = range_of<false>(values, left_out);
  const bool none = range.low > range.high;  // nothing but outliers
  if (__any_sync(kAllLanes, none ? 1 : 0) != 0) {
    const GroupRange all = range_of<false>(values, NoneLeftOut{});
    if (none) range = all;
  }
  const NuqGroup ranged = nuq_ranged(range.low, range.high);
  const GroupUnits units(ranged);
  const NuqSums sums = fold_members<false>(values, 1.0F, left_out.anew(), units, *place.search, codes);
  const NuqGroup fitted = nuq_fitted(sums, ranged);
  write_group(job, fitted);
  if (job.lane == 0) store_group(place.groups + job.token, units, fitted);
  write_outliers<16 * kSixteens>(job, place, rows, power_of_two(-exponent), outlier);
  return exponent;
}

template <int kSixteens, bool kOutliers>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerProcessor)
    encode_nuq_values_kernel(const __grid_constant__ EncodeArgs args, uint32_t bits) {
  constexpr uint32_t kDim = 16 * kSixteens;
  Smem shared;
  float* scratch = shared.take<float>(32);
  Workplace place{};
  place.search = shared.take<NuqSearch>(1);
  Values<kSixteens> values;
  const Job job = start<kSixteens, false>(args, scratch, values);
  place.search->fill(args.format, Side::kValue);
  const uint32_t tokens = job.shape.tokens;
  Codes<kSixteens> codes;
  int exponent = 0;
  if constexpr (kOutliers) {
    place.groups = shared.take<float4>(tokens);
    place.left_out = shared.take<uint32_t>(kLanesOfToken * tokens);
    place.candidates = shared.take<Candidate>(kLanesOfToken * tokens);
    place.rows = shared.take<float>(size_t{tokens} * row_floats(kDim));
    exponent = fold_with_outliers(job, place, input_rows(args.values), values, codes);
  } else {
    place.rows = shared.take<float>(size_t{tokens} / 8 * kDim);
    exponent = fold_plain(job, place, values, codes);
  }
  const uint32_t kept = job.token < job.first ? 0U : 0xFFFFFFFFU;
  auto* parts = reinterpret_cast<uint32_t*>(place.rows);
  if (bits == 4) {
    write_codes<4, kSixteens, false>(job, codes, kept, parts);
  } else if (bits == 3) {
    write_codes<3, kSixteens, false>(job, codes, kept, parts);
  } else {
    write_codes<2, kSixteens, false>(job, codes, kept, parts);
  }
  if (threadIdx.x == 0) args.params[2 * blockIdx.x + 1] = static_cast<uint32_t>(exponent);
}

template <int kSixteens>
cudaError_t launch_dim(const EncodeArgs& args, cudaStream_t stream) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const CodecInfo& codec = *find_codec(args.format.value.id);
  const uint32_t tokens = args.format.shape.tokens;
  const uint32_t threads = kLanesOfToken * tokens;
  const size_t fixed = 32 * sizeof(float) + (sizeof(NuqSearch) + 15) / 16 * 16;
  if (!codec.outliers) {
    return launch({args.count, threads, fixed + size_t{tokens} / 8 * kDim * sizeof(float), stream},
                  encode_nuq_values_kernel<kSixteens, false>, args, codec.bits);
  }
  const size_t outliers = tokens * (sizeof(float4) + row_floats(kDim) * sizeof(float)) +
                          threads * (sizeof(uint32_t) + sizeof(Candidate));
  return launch({args.count, threads, fixed + outliers, stream}, encode_nuq_values_kernel<kSixteens, true>,
                args, codec.bits);
}

}  // namespace

cudaError_t encode_nuq_values(const EncodeArgs& args, cudaStream_t stream) {
  if (args.format.shape.tokens > kMaxTokens) return cudaErrorNotSupported;
  if (args.format.shape.dim == 128) return launch_dim<8>(args, stream);
  if (args.format.shape.dim == 64) return launch_dim<4>(args, stream);
  return cudaErrorNotSupported;
}

}  // namespace quire::cuda
