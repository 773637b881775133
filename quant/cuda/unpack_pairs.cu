// Pairs of sections unpacked for warpgroups (section_pair.cuh): each by a block, in shared memory, from where
// whole rows go out.
#include "quant/cuda/section_pair.cuh"
#include "quant/cuda/unpack_section.cuh"

namespace quire::cuda {
namespace {

// Where the units of one of a pair's sections go.
template <int kBlocks>
struct PairStore {
  uint8_t* pair;
  uint32_t first_token;  // of the section
  Lane at;

  // A thread's words of a unit (prefill_unpack.cuh): four tokens' keys, eight channels each.
  __device__ __forceinline__ void keys(uint32_t group, uint32_t block, const Operands& unit) const {
#pragma unroll
    for (uint32_t t = 0; t < 4; ++t) one_key(group, t, block, make_uint2(unit.b[t][0], unit.b[t][1]));
  }
  __device__ __forceinline__ void one_key(uint32_t group, uint32_t t, uint32_t block, uint2 bytes) const {
    const uint32_t row = key_row(first_token + 32 * group + 4 * at.g + t);
    store_as<uint2>(
        pair + Pair<kBlocks>::kKeys + core_place(row, 32 * block + 8 * at.i, Pair<kBlocks>::kKeyStep), bytes);
  }
  // Four channels' values of eight tokens, which are two words of a thread's weights: one in each half of 32.
  __device__ __forceinline__ void values(uint32_t group, uint32_t block, const Operands& unit) const {
#pragma unroll
    for (uint32_t t = 0; t < 4; ++t) {
      const uint32_t channel = 32 * block + 4 * at.g + t;
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t token = first_token + 32 * group + kCoreWidth * half + 4 * at.i;
        store_as<uint32_t>(
            pair + Pair<kBlocks>::kValues + core_place(channel, token, Pair<kBlocks>::kValueStep),
            unit.b[t][half]);
      }
    }
  }
};

// A pair as it was copied: one section or two.
template <int kBlocks>
struct CopiedPair {
  const SectionFormat& format;
  const SectionRef* sections;
  uint32_t count;
  const uint8_t* copied;  // [count]
  const int8_t* levels;
  RequantisedGroups<kBlocks>* groups;  // [count] where sides are requantised

  __device__ __forceinline__ CopiedSection<kBlocks> section(uint32_t i) const {
    return {format, sections[i], copied + i * packed_bytes(format.layout), levels, groups + i};
  }
};

template <int kBlocks>
__device__ __forceinline__ void store_token(uint8_t* pair, uint32_t token, float key_scale,
                                            float value_share) {
  store_as<float>(pair + Pair<kBlocks>::kKeyScales + sizeof(float) * token, key_scale);
  store_as<float>(pair + Pair<kBlocks>::kValueShares + sizeof(float) * token, value_share);
}
// index: of the section in the pair. means: of the group; column: of the section among them.
template <int kBlocks>
__device__ __forceinline__ void unpack_means(const SideScales& keys, const SideScales& values, uint32_t index,
                                             uint32_t channel, uint32_t column, uint8_t* pair,
                                             uint8_t* means) {
  const uint32_t in_eight = channel % 4 / 2 * 4 + channel % 2 * 2 + channel % 8 / 4;
  pair[Pair<kBlocks>::kKeyMeans + core_place(index, channel / 8 * 8 + in_eight, kCoreBytes)] =
      static_cast<uint8_t>(keys.mean_code(channel));
  store_as<uint16_t>(means + kCoreWidth * channel + sizeof(uint16_t) * column,
                     bf16_bits(values.mean_code(channel)));
}

// Everything but codes of one of a pair's sections. values_top: of the pair; column: of the section among
// those of its group.
template <int kBlocks>
__device__ __forceinline__ void unpack_meta(const SideScales& keys, const SideScales& values,
                                            float values_top, uint32_t index, uint32_t column, uint8_t* pair,
                                            uint8_t* means) {
  const float to_share = values_top > 0.0F ? kTopWeight * reciprocal_approx(values_top) : 0.0F;
  for (uint32_t place = threadIdx.x; place < kPrefillTokens + Pair<kBlocks>::kDim; place += kUnpackThreads) {
    if (place < kPrefillTokens) {
      store_token<kBlocks>(pair, index * kPrefillTokens + place, keys.of_token(place),
                           values.of_token(place) * to_share);
    } else {
      unpack_means<kBlocks>(keys, values, index, place - kPrefillTokens, column, pair, means);
    }
  }
}
// The same of both. first: column of the first.
template <bool kRequantised, int kBlocks>
__device__ __forceinline__ void unpack_meta(const CopiedPair<kBlocks>& copied, uint32_t first, uint8_t* pair,
                                            uint8_t* means) {
  const bool two = copied.count > 1;
  const CopiedSection<kBlocks> one = copied.section(0);
  const CopiedSection<kBlocks> other = copied.section(two ? 1 : 0);
  const SideScales values = value_scales<kRequantised>(one);
  const SideScales other_values = value_scales<kRequantised>(other);
  const SideScales keys = key_scales<kRequantised>(one);
  const SideScales other_keys = key_scales<kRequantised>(other);
  const float top = fmaxf(values.top, other_values.top);
  unpack_meta<kBlocks>(keys, values, top, 0, first, pair, means);
  if (two) {
    unpack_meta<kBlocks>(other_keys, other_values, top, 1, first + 1, pair, means);
  } else if (threadIdx.x < kPrefillTokens) {
    store_token<kBlocks>(pair, kPrefillTokens + threadIdx.x, 0.0F, 0.0F);
  }
  if (threadIdx.x != 0) return;
  PairSteps* steps = reinterpret_cast<PairSteps*>(pair + Pair<kBlocks>::kSteps);
  store_as<float4>(steps, make_float4(keys.mean_step, two ? other_keys.mean_step : 0.0F, values.mean_step,
                                      two ? other_values.mean_step : 0.0F));
  steps->unit = top * (1.0F / kTopWeight);
}

// grid: pairs, runs, heads.
template <int kBlocks, bool kRequantised>
__global__ void __launch_bounds__(kUnpackThreads)
    unpack_pairs_kernel(const __grid_constant__ AttendArgs args, const __grid_constant__ SectionSpan span) {
  constexpr uint32_t kDim = Pair<kBlocks>::kDim;
  const uint32_t run = blockIdx.y;
  const uint32_t head = blockIdx.z;
  const SectionLayout& layout = args.format.layout;
  const uint32_t slot_bytes = packed_bytes(layout);
  Smem shared;
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  auto* packed = shared.take<uint8_t>(size_t{2} * slot_bytes);
  auto* unpacked = shared.take<uint8_t>(Pair<kBlocks>::kBytes);
  RequantisedGroups<kBlocks>* groups = nullptr;
  if constexpr (kRequantised) groups = shared.take<RequantisedGroups<kBlocks>>(2);

  const uint32_t of_span = sections_here(args, span, head, run);
  const uint32_t first = 2 * blockIdx.x;
  const uint32_t count = of_span > first ? min(of_span - first, 2U) : 0;
  const uint32_t in_group = first % kMeansAtOnce;
  const SectionRef* sections =
      args.sections + size_t{head} * args.section_stride + run * args.run_sections + span.first + first;
  uint8_t* to = pair_group_at<kBlocks>(args, span, gridDim.y, head, run, first / kMeansAtOnce);
  uint8_t* means = to + kPairsAtOnce * Pair<kBlocks>::kBytes;
  // Columns without a section count nothing, but not a number times nothing would be one.
  for (uint32_t i = threadIdx.x; i < kDim * (2 - count); i += kUnpackThreads) {
    store_as<uint16_t>(means + kCoreWidth * (i % kDim) + sizeof(uint16_t) * (in_group + count + i / kDim),
                       uint16_t{0});
  }
  if (count == 0) return;  // the whole block
  for (uint32_t side = 0; side < count; ++side)
    copy_section<kBlocks>(layout, sections[side].section, packed + side * slot_bytes);
  copy_async_commit();
  load_levels(args.format, levels);
  copy_async_wait<0>();
  __syncthreads();
  const CopiedPair<kBlocks> copied{args.format, sections, count, packed, levels, groups};
  if constexpr (kRequantised) {
    for (uint32_t i = 0; i < count; ++i) bring_to_lines(copied.section(i));
    __syncthreads();
  }
  const Lane lane = this_lane();
  for (uint32_t i = 0; i < count; ++i)
    unpack_section<kRequantised>(copied.section(i), lane,
                                 PairStore<kBlocks>{unpacked, i * kPrefillTokens, lane});
  if constexpr (kRequantised) __syncthreads();
  unpack_meta<kRequantised>(copied, in_group, unpacked, means);
  __syncthreads();
  uint8_t* pair = to + in_group / 2 * Pair<kBlocks>::kBytes;
  for (uint32_t at = 16 * threadIdx.x; at < Pair<kBlocks>::kBytes; at += 16 * kUnpackThreads)
    store_as<uint4>(pair + at, load_as<uint4>(unpacked + at));
}

template <int kBlocks, bool kRequantised>
cudaError_t unpack(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  const dim3 grid(span.groups * kPairsAtOnce, run_count(args), args.kv_heads);
  const size_t shared = 2 * kDecodeLevels + size_t{2} * packed_bytes(args.format.layout) +
                        Pair<kBlocks>::kBytes +
                        (kRequantised ? size_t{2} * sizeof(RequantisedGroups<kBlocks>) : 0);
  return launch({grid, kUnpackThreads, shared, stream}, unpack_pairs_kernel<kBlocks, kRequantised>, args,
                span);
}

}  // namespace

cudaError_t unpack_pairs(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  return with_unpacking(args.format, [&](auto blocks, auto requantised) {
    return unpack<blocks(), requantised()>(args, span, stream);
  });
}

}  // namespace quire::cuda
