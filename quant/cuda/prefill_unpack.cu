// Sections unpacked for prefill tiles (prefill_section.cuh): a block takes a group of one run and head.
#include "quant/cuda/section_pair.cuh"

namespace quire::cuda {
namespace {

// Means of keys and of values, scales of tokens: one of them to a thread at a time.
template <int kBlocks>
__device__ __forceinline__ void unpack_meta(const SectionFormat& format, const SectionRef& ref,
                                            const uint8_t* key_meta, uint8_t* to, uint16_t* means,
                                            uint32_t column) {
  using Place = Unpacked<kBlocks>;
  constexpr uint32_t kDim = Place::kDim;
  const uint8_t* value_meta = key_meta + kPrefillTokens + kDim;
  for (uint32_t place = threadIdx.x; place < 2 * (kPrefillTokens + kDim); place += kUnpackThreads) {
    if (place < kPrefillTokens) {
      const float scale = token_scale(format.key, ref.key_param, key_meta[place]);
      store_as<float>(to + Place::kKeyScales + 4 * place, scale);
    } else if (place < 2 * kPrefillTokens) {
      const uint32_t t = place - kPrefillTokens;
      const float top = token_scale(format.value, ref.value_param, 255);
      const float scale = token_scale(format.value, ref.value_param, value_meta[t]);
      const float share = top > 0.0F ? scale * (kTopWeight * reciprocal_approx(top)) : 0.0F;
      store_as<float>(to + Place::kValueShares + 4 * t, share);
      if (t == 0) {
        store_as<float4>(to + Place::kSteps, make_float4(mean_step(format.key, ref.key_param),
                                                         mean_step(format.value, ref.value_param),
                                                         top * (1.0F / kTopWeight), 0.0F));
      }
    } else if (place < 2 * kPrefillTokens + kDim) {
      const uint32_t c = place - 2 * kPrefillTokens;
      const auto code = static_cast<int8_t>(value_meta[kPrefillTokens + c]);
      means[mean_place(c, column)] = static_cast<uint16_t>(__float_as_uint(static_cast<float>(code)) >> 16);
    } else {
      const uint32_t c = place - 2 * kPrefillTokens - kDim;
      const uint32_t in_eight = c % 4 / 2 * 4 + c % 2 * 2 + c % 8 / 4;
      to[Place::kKeyMeans + c / 8 * 8 + in_eight] = key_meta[kPrefillTokens + c];
    }
  }
}

template <int kBlocks>
__device__ __forceinline__ void unpack_codes(const SectionFormat& format, const uint8_t* packed,
                                             const int8_t* levels, uint8_t* to) {
  using Place = Unpacked<kBlocks>;
  const Lane at = this_lane();
  const PackedCodes keys{packed, kPrefillTokens, Place::kDim};
  const PackedCodes values{packed + format.layout.value_codes, Place::kDim, kPrefillTokens};
  for (uint32_t unit = threadIdx.x / kWarpLanes; unit < Place::kUnits; unit += kUnpackThreads / kWarpLanes) {
    const uint32_t group = unit / kBlocks;
    const uint32_t block = unit % kBlocks;
    store_unit(to + Place::kKeys + unit * kUnitBytes,
               unpack_unit(format.key, keys, levels, block, group * 32, at));
    store_unit(to + Place::kValues + unit * kUnitBytes,
               unpack_unit(format.value, values, levels + kDecodeLevels, group, block * 32, at));
  }
}

// grid: groups, runs, heads.
template <int kBlocks>
__global__ void __launch_bounds__(kUnpackThreads)
    prefill_unpack_kernel(const __grid_constant__ AttendArgs args, const __grid_constant__ SectionSpan span) {
  using Place = Unpacked<kBlocks>;
  const uint32_t group = blockIdx.x;
  const uint32_t run = blockIdx.y;
  const uint32_t head = blockIdx.z;
  Smem shared;
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  auto* packed = shared.take<uint8_t>(size_t{2} * packed_bytes<kBlocks>(args.format.layout));
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
  const uint32_t slot_bytes = packed_bytes<kBlocks>(args.format.layout);
  if (count > 0) copy_section<kBlocks>(args.format.layout, sections[0].section, packed);
  copy_async_commit();
  for (uint32_t s = 0; s < count; ++s) {
    copy_async_wait<0>();
    __syncthreads();
    if (s + 1 < count)
      copy_section<kBlocks>(args.format.layout, sections[s + 1].section, packed + (s + 1) % 2 * slot_bytes);
    copy_async_commit();
    const uint8_t* slot = packed + s % 2 * slot_bytes;
    unpack_codes<kBlocks>(args.format, slot, levels, to + s * Place::kBytes);
    unpack_meta<kBlocks>(args.format, sections[s], slot + args.format.layout.key_meta, to + s * Place::kBytes,
                         means, s);
  }
}

template <int kBlocks>
cudaError_t unpack(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  const dim3 grid(span.groups, run_count(args), args.kv_heads);
  const size_t shared = 2 * kDecodeLevels + size_t{2} * packed_bytes<kBlocks>(args.format.layout);
  return launch({grid, kUnpackThreads, shared, stream}, prefill_unpack_kernel<kBlocks>, args, span);
}

}  // namespace

cudaError_t unpack_for_prefill(const AttendArgs& args, const SectionSpan& span, cudaStream_t stream) {
  return args.format.shape.dim == 64 ? unpack<2>(args, span, stream) : unpack<4>(args, span, stream);
}

size_t prefill_scratch_bytes(SectionShape shape, uint32_t kv_heads, uint32_t runs, uint32_t sections) {
  if (shape.tokens != kPrefillTokens || (shape.dim != 64 && shape.dim != 128)) return 0;
  const size_t group = shape.dim == 64 ? std::max(Unpacked<2>::kGroupBytes, Pair<2>::kGroupBytes)
                                       : std::max(Unpacked<4>::kGroupBytes, Pair<4>::kGroupBytes);
  return size_t{kv_heads} * runs * ((sections + kMeansAtOnce - 1) / kMeansAtOnce) * group;
}

}  // namespace quire::cuda
