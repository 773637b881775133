// Prefill attention over rotated and trellis codecs in pages of 64 tokens: 256 rows a block, 32 a warp.
//
// A section is copied to shared memory two ahead, unpacked there one ahead by all warps
// (prefill_section.cuh), and multiplied by each with its own rows (prefill_rows.cuh), whose outputs stay in
// registers. Half of the warps unpack before they attend, half after it, so that not all ask for the same
// part of the multiprocessor at the same time.
#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_kernel.cuh"
#include "quant/cuda/prefill_rows.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kRows = kPrefillWarps * kWarpRows;

template <int kBlocks>
__device__ __forceinline__ void store_tile(const AttendArgs& args, uint32_t head, uint32_t first_row, Lane at,
                                           const OwnRow& own_row, RowState<kBlocks> (&rows)[kRowsOfThread]) {
  constexpr uint32_t kDim = kBlocks * 32;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const float l = of_owner(own_row.l, r);
    const uint32_t row = first_row + row_of(r, at);
    if (row >= args.rows) continue;
    const size_t out = (size_t{head} * gridDim.x + blockIdx.x) * args.rows + row;
    float* o = args.partials.o + out * kDim + 8 * at.i;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const float(&x)[8] = rows[r].o[b];
      store_as<float4>(o + 32 * b, make_float4(x[0], x[1], x[2], x[3]));
      store_as<float4>(o + 32 * b + 4, make_float4(x[4], x[5], x[6], x[7]));
    }
    if (at.i != 0) continue;
    args.partials.m[out] = l == 0.0F ? -INFINITY : rows[r].m;
    args.partials.l[out] = l;
  }
}

// Of a warp: begins where the last one's ends.
template <int kBlocks>
__device__ __forceinline__ RowsInShared take_rows(Smem& shared) {
  const uint32_t warp = threadIdx.x / kWarpLanes;
  RowsInShared all{shared.take<uint4>(kPrefillThreads * kTiles * kBlocks), shared.take<float>(kRows),
                   shared.take<int32_t>(kRows), shared.take<float>(kRows * kMeansAtOnce)};
  all.operands += warp * kTiles * kBlocks * kWarpLanes;
  all.scales += warp * kWarpRows;
  all.first += warp * kWarpRows;
  all.worths += warp * kWarpRows * kMeansAtOnce;
  return all;
}
template <int kBlocks>
constexpr size_t shared_bytes(const SectionFormat& format) {
  return Slots<kBlocks>::bytes(format) + 2 * kDecodeLevels +
         kPrefillThreads * kTiles * kBlocks * sizeof(uint4) +
         kRows * (sizeof(float) + sizeof(int32_t) + kMeansAtOnce * sizeof(float));
}

// first_row: of the warp.
template <int kBlocks>
__device__ __forceinline__ void begin_rows(const AttendArgs& args, const WarpContext& w, uint32_t first_row,
                                           uint32_t first_section, const RowsInShared& shared,
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const uint32_t row = min(first_row + lane, args.rows - 1);
  const int32_t seen = args.first_token == nullptr ? 0 : args.first_token[row];
  shared.first[lane] = seen - static_cast<int32_t>(first_section * kPrefillTokens);
  for (uint32_t i = 0; i < kMeansAtOnce; ++i) shared.worths[i * kWarpRows + lane] = 0.0F;
  quantise_rows<kBlocks>(w, shared);
  clear_rows(rows);
  __syncwarp();
}

template <int kBlocks>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    attend_prefill_kernel(const __grid_constant__ AttendArgs args) {
  static_assert(kWarpRows == kWarpLanes);
  constexpr uint32_t kDim = kBlocks * 32;
  constexpr uint32_t kRefs = Slots<kBlocks>::kRefs;
  const uint32_t head = blockIdx.y;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  const uint32_t first_row = blockIdx.z * kRows + warp * kWarpRows;
  const Lane at = this_lane();

  Smem shared;
  int8_t* levels = shared.take<int8_t>(2 * kDecodeLevels);
  const Slots<kBlocks> slots(args.format, shared);
  const RowsInShared in_shared = take_rows<kBlocks>(shared);
  if (threadIdx.x < 2 * kDecodeLevels) {
    const Side side = threadIdx.x < kDecodeLevels ? Side::kKey : Side::kValue;
    levels[threadIdx.x] = table_level(args.format, side, threadIdx.x % kDecodeLevels);
  }
  // Columns without a section count nothing, but not a number times nothing would be one.
  for (uint32_t i = threadIdx.x; i < 2 * Slots<kBlocks>::kMeanWords; i += kPrefillThreads)
    slots.means(0)[i] = 0;

  const uint32_t begin = blockIdx.x * args.run_sections;
  const uint32_t count = min(args.run_sections, args.section_count - begin);
  const SectionRef* sections = args.sections + size_t{head} * args.section_stride + begin;
  const SectionLayout& layout = args.format.layout;
  if (threadIdx.x < min(count, 3U)) slots.refs[threadIdx.x] = sections[threadIdx.x];
  copy_section<kBlocks>(layout, sections[0].section, slots.packed(0));
  copy_async_commit();
  if (count > 1) copy_section<kBlocks>(layout, sections[1].section, slots.packed(1));
  copy_async_commit();

  // Rows beyond the last are taken for the last: what they give is not kept.
  const uint32_t from_row = min(first_row, args.rows - 1);
  const WarpContext w{args, args.q + (size_t{head} * args.rows + from_row) * kDim, args.rows - from_row - 1,
                      at};
  RowState<kBlocks> rows[kRowsOfThread];
  begin_rows(args, w, first_row, begin, in_shared, rows);
  const uint32_t sinks = begin == 0 ? args.format.sink_tokens : 0;
  if (sinks > 0) attend_sinks(w, sections[0], from_row, sinks, rows);
  float sums[kRowsOfThread];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) sums[r] = quad_sum(rows[r].l);
  OwnRow own_row{own(sums, at), 0.0F};
  copy_async_wait<1>();
  __syncthreads();
  unpack_section(args.format, slots.refs[0], at, levels, slots.packed(0), slots.unpacked(0), slots.means(0),
                 0);

  for (uint32_t s = 0; s < count; ++s) {
    const uint32_t slot = s & 1U;
    const uint32_t column = s % kMeansAtOnce;
    copy_async_wait<0>();
    __syncthreads();
    if (s + 2 < count) copy_section<kBlocks>(layout, slots.refs[(s + 2) % kRefs].section, slots.packed(slot));
    if (s + 3 < count && threadIdx.x == 0) copy_async16(&slots.refs[(s + 3) % kRefs], &sections[s + 3]);
    copy_async_commit();
#pragma unroll 1
    for (uint32_t part = 0; part < 2; ++part) {
      if (part == warp / (kPrefillWarps / 2)) {
        if (s + 1 < count)
          unpack_section(args.format, slots.refs[(s + 1) % kRefs], at, levels, slots.packed(1 - slot),
                         slots.unpacked(1 - slot), slots.means(s + 1), (s + 1) % kMeansAtOnce);
      } else {
        attend_unpacked(at, slots.unpacked(slot), static_cast<int>(s * kPrefillTokens),
                        static_cast<int>(s == 0 ? sinks : 0), column, in_shared, own_row, rows);
      }
    }
    if (column + 1 == kMeansAtOnce || s + 1 == count) settle(slots.means(s), at, in_shared, own_row, rows);
  }
  store_tile(args, head, first_row, at, own_row, rows);
}

template <int kBlocks>
cudaError_t launch_prefill(const AttendArgs& args, cudaStream_t stream) {
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kRows - 1) / kRows);
  return launch({grid, kPrefillThreads, shared_bytes<kBlocks>(args.format), stream},
                attend_prefill_kernel<kBlocks>, args);
}

bool in_rotated_space(const DeviceCodec& codec) {
  return codec.family == CodecFamily::kRotated || codec.family == CodecFamily::kTrellis;
}

}  // namespace

cudaError_t attend_prefill_tiles(const AttendArgs& args, cudaStream_t stream) {
  const SectionFormat& format = args.format;
  if (format.shape.tokens != kPrefillTokens || args.rotation.rotary_dim > 0 ||
      !in_rotated_space(format.key) || !in_rotated_space(format.value)) {
    return cudaErrorNotSupported;
  }
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  switch (format.shape.dim) {
    case 64:
      return launch_prefill<2>(args, stream);
    case 128:
      return launch_prefill<4>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace quire::cuda
