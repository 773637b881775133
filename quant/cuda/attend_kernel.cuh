// The attention kernels over head dimensions of 32 kBlocks, and their launches.
//
// decode: one block per run of sections and kv head. Its warps take sections in turn; their states are merged
// in the order of warps at the end. prefill: the warps of a block read the same sections for tiles of rows of
// their own, so that three of four reads are hits of the L1 cache.
#pragma once

#include "quant/cuda/attend_tile.cuh"

namespace quire::cuda {

inline constexpr uint32_t kAttendWarps = 4;

__device__ __forceinline__ int visible_from(const AttendArgs& args, uint32_t row, uint32_t section) {
  if (args.first_token == nullptr || row >= args.rows) return 0;
  const auto start = static_cast<int64_t>(section) * args.format.shape.tokens;
  const int64_t first = args.first_token[row] - start;
  return static_cast<int>(first < 0 ? 0 : first);
}

// Query rows first_row .. + rows of a head to q [rows][dim] in shared memory, zeros where there are none.
template <int kBlocks>
__device__ __forceinline__ void load_block_rows(const AttendArgs& args, uint32_t head, uint32_t first_row,
                                                uint32_t rows, float* q) {
  constexpr uint32_t kDim = kBlocks * 32;
  for (uint32_t i = threadIdx.x * 4; i < rows * kDim; i += blockDim.x * 4) {
    const uint32_t row = first_row + i / kDim;
    float4 four = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    if (row < args.rows) four = load_as<float4>(args.q + (size_t{head} * args.rows + row) * kDim + i % kDim);
    store_as<float4>(q + i, four);
  }
}

// The state that lies in o, m and l, all in shared memory, to the partials of the block's run.
template <int kBlocks>
__device__ __forceinline__ void store_block_rows(const AttendArgs& args, uint32_t head, uint32_t first_row,
                                                 uint32_t rows, const float* o, const float* m,
                                                 const float* l) {
  constexpr uint32_t kDim = kBlocks * 32;
  const size_t out = (size_t{head} * gridDim.x + blockIdx.x) * args.rows;
  for (uint32_t i = threadIdx.x * 4; i < rows * kDim; i += blockDim.x * 4) {
    const uint32_t row = first_row + i / kDim;
    if (row < args.rows)
      store_as<float4>(args.partials.o + (out + row) * kDim + i % kDim, load_as<float4>(o + i));
  }
  if (threadIdx.x < rows && first_row + threadIdx.x < args.rows) {
    args.partials.m[out + first_row + threadIdx.x] = m[threadIdx.x];
    args.partials.l[out + first_row + threadIdx.x] = l[threadIdx.x];
  }
}

// Merges the states of all warps in their order and leaves the result in o, m and l. o takes the queries'
// place.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void merge_warps(const WarpContext& w, uint32_t warp, float* o, float* m, float* l,
                                            RowState<kBlocks> (&rows)[kTiles]) {
  for (uint32_t other = 1; other < blockDim.x / kWarpLanes; ++other) {
    __syncthreads();
    if (warp == other) store_rows(w, rows, o, m, l);
    __syncthreads();
    if (warp == 0) merge_rows(w, o, m, l, rows);
  }
  __syncthreads();
  if (warp == 0) store_rows(w, rows, o, m, l);
  __syncthreads();
}

// Unfolded tokens of section 0.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void attend_sinks(const WarpContext& w, const SectionRef& ref, uint32_t first_row,
                                             uint32_t sinks, RowState<kBlocks> (&rows)[kTiles]) {
  int first[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    first[tile] = visible_from(w.args, first_row + 8 * static_cast<uint32_t>(tile) + w.at.g, 0);
  }
#pragma unroll 1
  for (uint32_t token = 0; token < sinks; ++token) attend_sink(w, ref, token, first, rows);
}

template <int kBlocks, int kTiles, bool kPrefill>
__global__ void __launch_bounds__(kAttendWarps* kWarpLanes, 1)
    attend_kernel(const __grid_constant__ AttendArgs args) {
  constexpr uint32_t kDim = kBlocks * 32;
  constexpr uint32_t kRows = kTiles * 8;
  constexpr uint32_t kQueries = kPrefill ? kRows * kAttendWarps : kRows;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  const uint32_t head = blockIdx.y;
  const uint32_t first_row = blockIdx.z * kQueries;

  Smem shared;
  float* q = shared.take<float>(size_t{kQueries} * kDim);
  float* m = shared.take<float>(kRows);
  float* l = shared.take<float>(kRows);
  constexpr uint32_t kWords = kTiles * QueryOperands::words_of_warp(kBlocks);
  uint32_t* query_words = shared.take<uint32_t>(size_t{kAttendWarps} * kWords) + size_t{warp} * kWords;
  load_block_rows<kBlocks>(args, head, first_row, kQueries, q);
  __syncthreads();

  const uint32_t begin = blockIdx.x * args.run_sections;
  const uint32_t end = min(begin + args.run_sections, sections_of(args, head));
  const SectionRef* sections = args.sections + size_t{head} * args.section_stride;
  const uint32_t warp_rows = kPrefill ? warp * kRows : 0;  // the warp's first row within the block's
  const WarpContext w{args, q + size_t{warp_rows} * kDim, kRows - 1, this_lane()};
  RowState<kBlocks> rows[kTiles];
  clear_rows(rows);
  const uint32_t first_section = begin + (kPrefill ? 0 : warp);  // of the warp
  if (first_section == 0 && end > 0) {
    attend_sinks(w, *sections, first_row + warp_rows, args.format.sink_tokens, rows);
  }
  for (uint32_t s = first_section; s < end; s += kPrefill ? 1 : kAttendWarps) {
    int first[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      first[tile] = visible_from(args, first_row + warp_rows + 8 * static_cast<uint32_t>(tile) + w.at.g, s);
    }
    const uint32_t sinks = s == 0 ? args.format.sink_tokens : 0;
    attend_section(w, sections[s], first, sinks, query_words, rows);
  }
  close_rows(rows);

  if constexpr (kPrefill) {
    for (uint32_t turn = 0; turn < kAttendWarps; ++turn) {
      __syncthreads();
      if (warp == turn) store_rows(w, rows, q, m, l);
      __syncthreads();
      store_block_rows<kBlocks>(args, head, first_row + turn * kRows, kRows, q, m, l);
    }
  } else {
    merge_warps(w, warp, q, m, l, rows);
    store_block_rows<kBlocks>(args, head, first_row, kRows, q, m, l);
  }
}

template <int kBlocks, int kTiles, bool kPrefill>
cudaError_t launch_attend(const AttendArgs& args, cudaStream_t stream) {
  constexpr uint32_t kQueries = kTiles * 8 * (kPrefill ? kAttendWarps : 1);
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kQueries - 1) / kQueries);
  constexpr size_t kWords = size_t{kAttendWarps} * kTiles * QueryOperands::words_of_warp(kBlocks);
  const size_t shared = (size_t{kQueries} * kBlocks * 32 + 2 * kTiles * 8 + kWords) * sizeof(float);
  return launch({grid, kAttendWarps * kWarpLanes, shared, stream}, attend_kernel<kBlocks, kTiles, kPrefill>,
                args);
}

// For any codecs and shape: what has no kernel of its own (attend_staged.h).
template <int kBlocks>
cudaError_t attend(const AttendArgs& args, bool prefill, cudaStream_t stream) {
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  if (prefill) return launch_attend<kBlocks, 1, true>(args, stream);
  return launch_attend<kBlocks, 1, false>(args, stream);
}

}  // namespace quire::cuda
