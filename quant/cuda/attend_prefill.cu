// Prefill attention over rotated and trellis codecs in pages of 64 tokens: 128 rows a block, 32 a warp.
//
// Sections are unpacked once for all rows of a call (prefill_unpack.cu), as many at a time as scratch takes;
// where that are not all of a run, a launch goes on from the partials of the one before. Unpacked ones come
// to shared memory two ahead, and each warp multiplies them with its own rows (prefill_rows.cuh), whose
// outputs stay in registers. Two blocks share a multiprocessor: while one has its softmax the other has its
// products.
#include "quant/cuda/attend_dims.h"
#include "quant/cuda/attend_kernel.cuh"
#include "quant/cuda/prefill_rows.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kPrefillWarps = 4;
constexpr uint32_t kPrefillThreads = kPrefillWarps * kWarpLanes;
constexpr uint32_t kRows = kPrefillWarps * kWarpRows;
constexpr uint32_t kSlots = 3;  // of sections: one is multiplied, the others are under way

template <int kBlocks>
__device__ __forceinline__ void store_tile(const AttendArgs& args, uint32_t head, uint32_t first_row, Lane at,
                                           const OwnRow& own_row,
                                           const RowState<kBlocks> (&rows)[kRowsOfThread]) {
  constexpr uint32_t kDim = kBlocks * 32;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const uint32_t row = first_row + row_of(r, at);
    if (row >= args.rows) continue;
    float* o = args.partials.o + partial_of(args, head, row) * kDim + 8 * at.i;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const float(&x)[8] = rows[r].o[b];
      store_as<float4>(o + 32 * b, make_float4(x[0], x[1], x[2], x[3]));
      store_as<float4>(o + 32 * b + 4, make_float4(x[4], x[5], x[6], x[7]));
    }
  }
  const uint32_t row = first_row + own_row_of(at);
  if (row >= args.rows) return;
  const size_t out = partial_of(args, head, row);
  args.partials.m[out] = own_row.l == 0.0F ? -INFINITY : own_row.m;
  args.partials.l[out] = own_row.l;
}

// The state that the launch before left.
template <int kBlocks>
__device__ __forceinline__ OwnRow load_tile(const AttendArgs& args, uint32_t head, uint32_t first_row,
                                            Lane at, RowState<kBlocks> (&rows)[kRowsOfThread]) {
  constexpr uint32_t kDim = kBlocks * 32;
  const auto from = [&](uint32_t row) { return partial_of(args, head, min(first_row + row, args.rows - 1)); };
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const float* o = args.partials.o + from(row_of(r, at)) * kDim + 8 * at.i;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) load_eight(o + 32 * b, rows[r].o[b]);
  }
  const size_t own_partial = from(own_row_of(at));
  return {fmaxf(args.partials.m[own_partial], kEmptyScore), args.partials.l[own_partial], 0.0F};
}

template <int kBlocks>
constexpr size_t shared_bytes() {
  return size_t{kSlots} * Unpacked<kBlocks>::kBytes + kPrefillWarps * sizeof(RowsInShared<kBlocks>);
}

// The span's sections of one run and head, in scratch.
template <int kBlocks>
struct UnpackedRun {
  const uint8_t* base;

  __device__ __forceinline__ const uint8_t* section(uint32_t s) const {
    return base + size_t{s} * Unpacked<kBlocks>::kBytes +
           size_t{s / kMeansAtOnce} * Unpacked<kBlocks>::kMeanBytes;
  }
  // Of the group that section s is of.
  __device__ __forceinline__ const uint8_t* means(uint32_t s) const {
    return base + size_t{s / kMeansAtOnce + 1} * Unpacked<kBlocks>::kGroupBytes -
           Unpacked<kBlocks>::kMeanBytes;
  }
  // Every thread of the block takes part.
  __device__ __forceinline__ void start(uint32_t s, uint8_t* slot) const {
    constexpr uint32_t kStep = 16 * kPrefillThreads;
    const uint32_t first = 16 * made_anew(threadIdx.x);
    const uint8_t* from = section(s) + first;
    slot += first;
#pragma unroll
    for (uint32_t at = 0; at < Unpacked<kBlocks>::kBytes; at += kStep) {
      if (at + kStep <= Unpacked<kBlocks>::kBytes || at + first < Unpacked<kBlocks>::kBytes)
        copy_async16(slot + at, from + at);
    }
  }
};

// first_row: of the warp.
template <int kBlocks>
__device__ __forceinline__ void begin_rows(const AttendArgs& args, const WarpContext& w, uint32_t first_row,
                                           uint32_t first_section, RowsInShared<kBlocks>& shared,
                                           RowState<kBlocks> (&rows)[kRowsOfThread]) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const uint32_t row = min(first_row + lane, args.rows - 1);
  const int32_t seen = args.first_token == nullptr ? 0 : args.first_token[row];
  shared.first[lane] = seen - static_cast<int32_t>(first_section * kPrefillTokens);
  for (auto& worths : shared.worths) worths[lane] = 0.0F;
  quantise_rows<kBlocks>(w, is_requantised(args.format.key), shared);
  clear_rows(rows);
  __syncwarp();
}

template <int kBlocks>
__global__ void __launch_bounds__(kPrefillThreads, 2)
    attend_prefill_kernel(const __grid_constant__ AttendArgs args, const __grid_constant__ SectionSpan span) {
  static_assert(kWarpRows == kWarpLanes);
  constexpr uint32_t kDim = kBlocks * 32;
  const uint32_t head = blockIdx.y;
  const uint32_t count = sections_here(args, span, head, blockIdx.x);
  if (count == 0) {  // the whole block: an earlier launch has ended its run, or it has none
    if (span.first == 0) store_empty<kBlocks>(args, head, blockIdx.z * kRows, kRows);
    return;
  }
  const uint32_t first_row = blockIdx.z * kRows + threadIdx.x / kWarpLanes * kWarpRows;
  const Lane at = this_lane();

  Smem shared;
  auto* slots = shared.take<uint8_t>(size_t{kSlots} * Unpacked<kBlocks>::kBytes);
  auto& in_shared = shared.take<RowsInShared<kBlocks>>(kPrefillWarps)[threadIdx.x / kWarpLanes];
  const uint32_t begin = blockIdx.x * args.run_sections + span.first;
  const UnpackedRun<kBlocks> run{group_at<kBlocks>(args, span, gridDim.x, head, blockIdx.x, 0)};
#pragma unroll
  for (uint32_t s = 0; s + 1 < kSlots; ++s) {
    if (s < count) run.start(s, slots + s * Unpacked<kBlocks>::kBytes);
    copy_async_commit();
  }

  // Rows beyond the last are taken for the last: what they give is not kept.
  const uint32_t from_row = min(first_row, args.rows - 1);
  const WarpContext w{args, args.q + (size_t{head} * args.rows + from_row) * kDim, args.rows - from_row - 1,
                      at};
  RowState<kBlocks> rows[kRowsOfThread];
  begin_rows(args, w, first_row, begin, in_shared, rows);
  const uint32_t sinks = begin == 0 ? args.format.sink_tokens : 0;
  OwnRow& own_row = in_shared.own_row();
  own_row = {kEmptyScore, 0.0F, 0.0F};
  if (span.first > 0) {
    own_row = load_tile(args, head, first_row, at, rows);
  } else if (sinks > 0) {
    attend_sinks(w, args.sections[size_t{head} * args.section_stride], from_row, sinks, rows);
    const float m[] = {rows[0].m, rows[1].m, rows[2].m, rows[3].m};
    const float l[] = {rows[0].l, rows[1].l, rows[2].l, rows[3].l};
    own_row = {own(m, at), own_sum(l, at), 0.0F};
  }

  uint32_t slot = 0;  // of section s; the one before it is filled
#pragma unroll 1
  for (uint32_t s = 0; s < count; ++s) {
    copy_async_wait<kSlots - 2>();
    __syncthreads();
    const uint32_t before = slot == 0 ? kSlots - 1 : slot - 1;
    if (s + kSlots - 1 < count) run.start(s + kSlots - 1, slots + before * Unpacked<kBlocks>::kBytes);
    copy_async_commit();
    const uint32_t column = s % kMeansAtOnce;
    attend_unpacked(at, slots + slot * Unpacked<kBlocks>::kBytes, static_cast<int>(s * kPrefillTokens),
                    static_cast<int>(s == 0 ? sinks : 0), column, in_shared, rows);
    if (column + 1 == kMeansAtOnce || s + 1 == count) settle(run.means(s), at, in_shared, rows);
    slot = slot + 1 == kSlots ? 0 : slot + 1;
  }
  store_tile(args, head, first_row, at, own_row, rows);
}

template <int kBlocks>
cudaError_t launch_prefill(const AttendArgs& args, cudaStream_t stream) {
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kRows - 1) / kRows);
  return attend_spans(args, Unpacked<kBlocks>::kGroupBytes, [&](const SectionSpan& span) {
    const cudaError_t error = unpack_for_prefill(args, span, stream);
    if (error != cudaSuccess) return error;
    return launch({grid, kPrefillThreads, shared_bytes<kBlocks>(), stream}, attend_prefill_kernel<kBlocks>,
                  args, span);
  });
}

}  // namespace

cudaError_t attend_prefill_tiles(const AttendArgs& args, cudaStream_t stream) {
  if (!has_prefill_tiles(args)) return cudaErrorNotSupported;
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  return args.format.shape.dim == 64 ? launch_prefill<2>(args, stream) : launch_prefill<4>(args, stream);
}

}  // namespace quire::cuda
