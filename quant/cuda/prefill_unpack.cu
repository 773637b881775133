// Sections unpacked for prefill tiles (prefill_section.cuh): a block takes a group of one run and head.
#include "quant/cuda/section_pair.cuh"
#include "quant/cuda/unpack_section.cuh"

namespace quire::cuda {
namespace {

// Where the units of a section go.
template <int kBlocks>
struct UnitStore {
  uint8_t* section;

  __device__ __forceinline__ uint8_t* key_unit(uint32_t group, uint32_t block) const {
    return section + Unpacked<kBlocks>::kKeys + (group * kBlocks + block) * kUnitBytes;
  }
  __device__ __forceinline__ void keys(uint32_t group, uint32_t block, const Operands& unit) const {
    store_unit(key_unit(group, block), unit);
  }
  __device__ __forceinline__ void one_key(uint32_t group, uint32_t t, uint32_t block, uint2 bytes) const {
    uint8_t* of_pair = key_unit(group, block) + t / 2 * (kUnitBytes / 2);
    store_as<uint2>(of_pair + 16 * (threadIdx.x % kWarpLanes) + t % 2 * sizeof(uint2), bytes);
  }
  __device__ __forceinline__ void values(uint32_t group, uint32_t block, const Operands& unit) const {
    store_unit(section + Unpacked<kBlocks>::kValues + (group * kBlocks + block) * kUnitBytes, unit);
  }
};

// Means of keys and of values, scales of tokens: one of them to a thread at a time.
template <bool kRequantised, int kBlocks>
__device__ __forceinline__ void unpack_meta(const CopiedSection<kBlocks>& section, uint8_t* to,
                                            uint16_t* means, uint32_t column) {
  using Place = Unpacked<kBlocks>;
  constexpr uint32_t kDim = Place::kDim;
  const SideScales keys = key_scales<kRequantised>(section);
  const SideScales values = value_scales<kRequantised>(section);
  const float top = values.top;
  for (uint32_t place = threadIdx.x; place < 2 * (kPrefillTokens + kDim); place += kUnpackThreads) {
    if (place < kPrefillTokens) {
      store_as<float>(to + Place::kKeyScales + 4 * place, keys.of_token(place));
    } else if (place < 2 * kPrefillTokens) {
      const uint32_t t = place - kPrefillTokens;
      const float share = top > 0.0F ? values.of_token(t) * (kTopWeight * reciprocal_approx(top)) : 0.0F;
      store_as<float>(to + Place::kValueShares + 4 * t, share);
      if (t == 0) {
        store_as<float4>(to + Place::kSteps,
                         make_float4(keys.mean_step, values.mean_step, top * (1.0F / kTopWeight), 0.0F));
      }
    } else if (place < 2 * kPrefillTokens + kDim) {
      const uint32_t c = place - 2 * kPrefillTokens;
      means[mean_place(c, column)] = bf16_bits(values.mean_code(c));
    } else {
      const uint32_t c = place - 2 * kPrefillTokens - kDim;
      const uint32_t in_eight = c % 4 / 2 * 4 + c % 2 * 2 + c % 8 / 4;
      to[Place::kKeyMeans + c / 8 * 8 + in_eight] = static_cast<uint8_t>(keys.mean_code(c));
    }
  }
}

// grid: groups, runs, heads.
template <int kBlocks, bool kRequantised>
__global__ void __launch_bounds__(kUnpackThreads)
    prefill_unpack_kernel(const __grid_constant__ AttendArgs args, const __grid_constant__ SectionSpan span) {
  using Place = Unpacked<kBlocks>;
  const uint32_t group = blockIdx.x;
  const uint32_t run = blockIdx.y;
  const uint32_t head = blockIdx.z;
  Smem shared;
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  const uint32_t slot_bytes = packed_bytes(args.format.layout);
  auto* packed = shared.take<uint8_t>(size_t{2} * slot_bytes);
  RequantisedGroups<kBlocks>* groups = nullptr;
  if constexpr (kRequantised) groups = shared.take<RequantisedGroups<kBlocks>>(1);
  load_levels(args.format, levels);
  const uint32_t of_span = sections_here(args, span, head, run);
  const uint32_t first = group * kMeansAtOnce;
  const uint32_t count = of_span > first ? min(of_span - first, kMeansAtOnce) : 0;
  const SectionRef* sections =
      args.sections + size_t{head} * args.section_stride + run * args.run_sections + span.first + first;
  uint8_t* to = group_at<kBlocks>(args, span, gridDim.y, head, run, group);
  auto* means = reinterpret_cast<uint16_t*>(to + kMeansAtOnce * Place::kBytes);
  // Columns without a section count nothing, but not a number times nothing would be one.
  for (uint32_t i = threadIdx.x; i < Place::kDim * (kMeansAtOnce - count); i += kUnpackThreads)
    means[mean_place(i % Place::kDim, count + i / Place::kDim)] = 0;
  if (count > 0) copy_section<kBlocks>(args.format.layout, sections[0].section, packed);
  copy_async_commit();
  for (uint32_t s = 0; s < count; ++s) {
    copy_async_wait<0>();
    __syncthreads();
    if (s + 1 < count)
      copy_section<kBlocks>(args.format.layout, sections[s + 1].section, packed + (s + 1) % 2 * slot_bytes);
    copy_async_commit();
    const CopiedSection<kBlocks> section{args.format, sections[s], packed + s % 2 * slot_bytes, levels,
                                         groups};
    if constexpr (kRequantised) {
      bring_to_lines(section);
      __syncthreads();
    }
    unpack_section<kRequantised>(section, this_lane(), UnitStore<kBlocks>{to + s * Place::kBytes});
    if constexpr (kRequantised) __syncthreads();
    unpack_meta<kRequantised>(section, to + s * Place::kBytes, means, s);
  }
}

template <int kBlocks, bool kRequantised>
cudaError_t unpack(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  const dim3 grid(span.groups, run_count(args), args.kv_heads);
  const size_t shared = 2 * kDecodeLevels + size_t{2} * packed_bytes(args.format.layout) +
                        (kRequantised ? sizeof(RequantisedGroups<kBlocks>) : 0);
  return launch({grid, kUnpackThreads, shared, stream}, prefill_unpack_kernel<kBlocks, kRequantised>, args,
                span);
}

}  // namespace

cudaError_t unpack_for_prefill(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  return with_unpacking(args.format, [&](auto blocks, auto requantised) {
    return unpack<blocks(), requantised()>(args, span, stream);
  });
}

size_t prefill_scratch_bytes(SectionShape shape, uint32_t kv_heads, uint32_t runs, uint32_t sections) {
  if (shape.tokens != kPrefillTokens || (shape.dim != 64 && shape.dim != 128)) return 0;
  const size_t group = shape.dim == 64 ? std::max(Unpacked<2>::kGroupBytes, Pair<2>::kGroupBytes)
                                       : std::max(Unpacked<4>::kGroupBytes, Pair<4>::kGroupBytes);
  return size_t{kv_heads} * runs * ((sections + kMeansAtOnce - 1) / kMeansAtOnce) * group;
}

}  // namespace quire::cuda
