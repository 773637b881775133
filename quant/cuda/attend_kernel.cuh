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

template <int kBlocks, int kTiles, bool kPrefill>
__global__ void __launch_bounds__(kAttendWarps* kWarpLanes)
    attend_kernel(const __grid_constant__ AttendArgs args) {
  constexpr uint32_t kDim = kBlocks * 32;
  constexpr uint32_t kRows = kTiles * 8;
  constexpr uint32_t kQueries = kPrefill ? kRows * kAttendWarps : kRows;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  const uint32_t head = blockIdx.y;
  const uint32_t first_row = blockIdx.z * kQueries;

  Smem shared;
  float* q = shared.take<float>(size_t{kQueries} * kDim);
  float* other_m = shared.take<float>(kRows);
  float* other_l = shared.take<float>(kRows);
  for (uint32_t i = threadIdx.x * 4; i < kQueries * kDim; i += blockDim.x * 4) {
    const uint32_t row = first_row + i / kDim;
    float4 four = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    if (row < args.rows) four = load_as<float4>(args.q + (size_t{head} * args.rows + row) * kDim + i % kDim);
    store_as<float4>(q + i, four);
  }
  __syncthreads();

  const uint32_t begin = blockIdx.x * args.run_sections;
  const uint32_t end = min(begin + args.run_sections, args.section_count);
  const SectionRef* sections = args.sections + size_t{head} * args.section_stride;
  const uint32_t warp_rows = kPrefill ? warp * kRows : 0;  // the warp's first row within the block's
  const WarpContext w{args, q + size_t{warp_rows} * kDim, this_lane()};
  RowState<kBlocks> rows[kTiles];
  clear_rows(rows);
  for (uint32_t s = begin + (kPrefill ? 0 : warp); s < end; s += kPrefill ? 1 : kAttendWarps) {
    int first[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      first[tile] = visible_from(args, first_row + warp_rows + 8 * static_cast<uint32_t>(tile) + w.at.g, s);
    }
    attend_section(w, sections[s], first, s == 0 ? args.format.sink_tokens : 0, rows);
  }
  close_rows(rows);

  // The queries are done with: their memory takes the states of the other warps, one after the other.
  if constexpr (!kPrefill) {
    for (uint32_t other = 1; other < kAttendWarps; ++other) {
      __syncthreads();
      if (warp == other) store_rows(w, rows, q, other_m, other_l);
      __syncthreads();
      if (warp == 0) merge_rows(w, q, other_m, other_l, rows);
    }
  }
  __syncthreads();
  for (uint32_t turn = 0; turn < (kPrefill ? kAttendWarps : 1); ++turn) {
    if (warp == turn) store_rows(w, rows, q, other_m, other_l);
    __syncthreads();
    const uint32_t rows_done = first_row + turn * kRows;
    const size_t out = (size_t{head} * gridDim.x + blockIdx.x) * args.rows;
    for (uint32_t i = threadIdx.x * 4; i < kRows * kDim; i += blockDim.x * 4) {
      const uint32_t row = rows_done + i / kDim;
      if (row < args.rows)
        store_as<float4>(args.partials.o + (out + row) * kDim + i % kDim, load_as<float4>(q + i));
    }
    if (threadIdx.x < kRows && rows_done + threadIdx.x < args.rows) {
      args.partials.m[out + rows_done + threadIdx.x] = other_m[threadIdx.x];
      args.partials.l[out + rows_done + threadIdx.x] = other_l[threadIdx.x];
    }
    __syncthreads();
  }
}

template <int kBlocks, int kTiles, bool kPrefill>
cudaError_t launch_attend(const AttendArgs& args, cudaStream_t stream) {
  constexpr uint32_t kQueries = kTiles * 8 * (kPrefill ? kAttendWarps : 1);
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kQueries - 1) / kQueries);
  const size_t shared = (size_t{kQueries} * kBlocks * 32 + 2 * kTiles * 8) * sizeof(float);
  return launch({grid, kAttendWarps * kWarpLanes, shared, stream}, attend_kernel<kBlocks, kTiles, kPrefill>,
                args);
}

// Two tiles of rows share what is done per section, where there are that many rows and registers.
template <int kBlocks>
cudaError_t attend(const AttendArgs& args, bool prefill, cudaStream_t stream) {
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  if constexpr (kBlocks <= 4) {
    if (prefill) return launch_attend<kBlocks, 2, true>(args, stream);
    if (args.rows > 8) return launch_attend<kBlocks, 2, false>(args, stream);
    return launch_attend<kBlocks, 1, false>(args, stream);
  } else {
    if (prefill) return launch_attend<kBlocks, 1, true>(args, stream);
    return launch_attend<kBlocks, 1, false>(args, stream);
  }
}

}  // namespace quire::cuda
