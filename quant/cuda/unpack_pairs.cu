// Pairs of sections unpacked for warpgroups (section_pair.cuh): each by a block, in shared memory, from where
// whole rows go out.
#include "quant/cuda/section_pair.cuh"

namespace quire::cuda {
namespace {

// A thread's words of a unit (prefill_unpack.cuh): four tokens' keys, eight channels each.
template <int kBlocks>
__device__ __forceinline__ void store_keys(uint8_t* pair, const Operands& u, uint32_t first_token,
                                           uint32_t block, Lane at) {
#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) {
    const uint32_t row = key_row(first_token + 4 * at.g + t);
    store_as<uint2>(
        pair + Pair<kBlocks>::kKeys + core_place(row, 32 * block + 8 * at.i, Pair<kBlocks>::kKeyStep),
        make_uint2(u.b[t][0], u.b[t][1]));
  }
}
// Four channels' values of eight tokens, which are two words of a thread's weights: one in each half of 32.
template <int kBlocks>
__device__ __forceinline__ void store_values(uint8_t* pair, const Operands& u, uint32_t first_token,
                                             uint32_t block, Lane at) {
#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) {
    const uint32_t channel = 32 * block + 4 * at.g + t;
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      store_as<uint32_t>(
          pair + Pair<kBlocks>::kValues +
              core_place(channel, first_token + kCoreWidth * half + 4 * at.i, Pair<kBlocks>::kValueStep),
          u.b[t][half]);
    }
  }
}

// side: of the pair, whose codes lie at `packed` as prefill_unpack.cuh's copy_section left them.
template <int kBlocks>
__device__ __forceinline__ void unpack_side(const SectionFormat& format, const uint8_t* packed,
                                            const int8_t* levels, uint32_t side, uint8_t* pair) {
  constexpr uint32_t kDim = Pair<kBlocks>::kDim;
  const Lane at = this_lane();
  const PackedCodes keys{packed, kPrefillTokens, kDim};
  const PackedCodes values{packed + format.layout.value_codes, kDim, kPrefillTokens};
  for (uint32_t unit = threadIdx.x / kWarpLanes; unit < 2 * kBlocks; unit += kUnpackThreads / kWarpLanes) {
    const uint32_t group = unit / kBlocks;
    const uint32_t block = unit % kBlocks;
    const uint32_t token = side * kPrefillTokens + group * 32;
    store_keys<kBlocks>(pair, unpack_unit(format.key, keys, levels, block, group * 32, at), token, block, at);
    store_values<kBlocks>(pair,
                          unpack_unit(format.value, values, levels + kDecodeLevels, group, block * 32, at),
                          token, block, at);
  }
}

// One of a pair's sections; ref is nullptr where there is none.
struct PairSide {
  const SectionRef* ref;
  const uint8_t* key_meta;  // [64 + dim], and those of values
  uint32_t index;           // 0 or 1
};
// A pair as it was copied.
struct PackedPair {
  const SectionRef* sections;
  uint32_t count;  // 1 or 2
  const uint8_t* packed;
  uint32_t slot_bytes;

  __device__ __forceinline__ PairSide side(uint32_t index, const SectionLayout& layout) const {
    return {index < count ? sections + index : nullptr, packed + index * slot_bytes + layout.key_meta, index};
  }
};

// Scales of a token. pair_top: the larger of the two sections' largest scales of values.
template <int kBlocks>
__device__ __forceinline__ void unpack_token(const SectionFormat& format, const PairSide& side, uint32_t t,
                                             float pair_top, uint8_t* pair) {
  const uint32_t token = side.index * kPrefillTokens + t;
  float scale = 0.0F;
  float share = 0.0F;
  if (side.ref != nullptr) {
    const uint8_t* value_meta = side.key_meta + kPrefillTokens + Pair<kBlocks>::kDim;
    scale = token_scale(format.key, side.ref->key_param, side.key_meta[t]);
    const float value = token_scale(format.value, side.ref->value_param, value_meta[t]);
    share = pair_top > 0.0F ? value * (kTopWeight * reciprocal_approx(pair_top)) : 0.0F;
  }
  store_as<float>(pair + Pair<kBlocks>::kKeyScales + sizeof(float) * token, scale);
  store_as<float>(pair + Pair<kBlocks>::kValueShares + sizeof(float) * token, share);
}

// means: of the group; section: of the group.
template <int kBlocks>
__device__ __forceinline__ void unpack_means(const PairSide& side, uint32_t channel, uint32_t section,
                                             uint8_t* pair, uint8_t* means) {
  const uint8_t* codes = side.key_meta + kPrefillTokens;
  const uint32_t in_eight = channel % 4 / 2 * 4 + channel % 2 * 2 + channel % 8 / 4;
  pair[Pair<kBlocks>::kKeyMeans + core_place(side.index, channel / 8 * 8 + in_eight, kCoreBytes)] =
      codes[channel];
  const auto value = static_cast<int8_t>(codes[Pair<kBlocks>::kDim + kPrefillTokens + channel]);
  store_as<uint16_t>(means + kCoreWidth * channel + sizeof(uint16_t) * section,
                     static_cast<uint16_t>(__float_as_uint(static_cast<float>(value)) >> 16));
}

__device__ __forceinline__ float top_of(const SectionFormat& format, const SectionRef* ref) {
  return ref == nullptr ? 0.0F : token_scale(format.value, ref->value_param, 255);
}

// Everything but codes. first: index of the pair's first section in the group.
template <int kBlocks>
__device__ __forceinline__ void unpack_meta(const SectionFormat& format, const PackedPair& packed,
                                            uint32_t first, uint8_t* pair, uint8_t* means) {
  constexpr uint32_t kOfSide = kPrefillTokens + Pair<kBlocks>::kDim;
  const SectionRef* second = packed.count > 1 ? packed.sections + 1 : nullptr;
  const float pair_top = fmaxf(top_of(format, packed.sections), top_of(format, second));
  for (uint32_t place = threadIdx.x; place < 2 * kOfSide; place += kUnpackThreads) {
    const PairSide side = packed.side(place / kOfSide, format.layout);
    const uint32_t in_side = place % kOfSide;
    if (in_side < kPrefillTokens) {
      unpack_token<kBlocks>(format, side, in_side, pair_top, pair);
    } else if (side.ref != nullptr) {
      unpack_means<kBlocks>(side, in_side - kPrefillTokens, first + side.index, pair, means);
    }
  }
  if (threadIdx.x != 0) return;
  const auto key_step = [&](const SectionRef* ref) {
    return ref == nullptr ? 0.0F : mean_step(format.key, ref->key_param);
  };
  const auto value_step = [&](const SectionRef* ref) {
    return ref == nullptr ? 0.0F : mean_step(format.value, ref->value_param);
  };
  PairSteps* steps = reinterpret_cast<PairSteps*>(pair + Pair<kBlocks>::kSteps);
  store_as<float4>(steps, make_float4(key_step(packed.sections), key_step(second),
                                      value_step(packed.sections), value_step(second)));
  steps->unit = pair_top * (1.0F / kTopWeight);
}

// grid: pairs, runs, heads.
template <int kBlocks>
__global__ void __launch_bounds__(kUnpackThreads)
    unpack_pairs_kernel(const __grid_constant__ AttendArgs args, const __grid_constant__ SectionSpan span) {
  constexpr uint32_t kDim = Pair<kBlocks>::kDim;
  const uint32_t run = blockIdx.y;
  const uint32_t head = blockIdx.z;
  const SectionLayout& layout = args.format.layout;
  const uint32_t slot_bytes = packed_bytes<kBlocks>(layout);
  Smem shared;
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  auto* packed = shared.take<uint8_t>(size_t{2} * slot_bytes);
  auto* unpacked = shared.take<uint8_t>(Pair<kBlocks>::kBytes);

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
  for (uint32_t side = 0; side < count; ++side)
    unpack_side<kBlocks>(args.format, packed + side * slot_bytes, levels, side, unpacked);
  unpack_meta<kBlocks>(args.format, {sections, count, packed, slot_bytes}, in_group, unpacked, means);
  __syncthreads();
  uint8_t* pair = to + in_group / 2 * Pair<kBlocks>::kBytes;
  for (uint32_t at = 16 * threadIdx.x; at < Pair<kBlocks>::kBytes; at += 16 * kUnpackThreads)
    store_as<uint4>(pair + at, load_as<uint4>(unpacked + at));
}

template <int kBlocks>
cudaError_t unpack(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  const dim3 grid(span.groups * kPairsAtOnce, run_count(args), args.kv_heads);
  const size_t shared =
      2 * kDecodeLevels + size_t{2} * packed_bytes<kBlocks>(args.format.layout) + Pair<kBlocks>::kBytes;
  return launch({grid, kUnpackThreads, shared, stream}, unpack_pairs_kernel<kBlocks>, args, span);
}

}  // namespace

cudaError_t unpack_pairs(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  return args.format.shape.dim == 64 ? unpack<2>(args, span, stream) : unpack<4>(args, span, stream);
}

}  // namespace quire::cuda
