// Decode attention of one pair of codecs over pages of 64 tokens: one block per run of sections and kv head,
// whose warps take sections in turn.
#pragma once

#include "quant/cuda/attend_kernel.cuh"
#include "quant/cuda/attend_staged.h"
#include "quant/cuda/staged_rows.cuh"

namespace quire::cuda {

// The sections of one warp, on their way into its slots: keys and values in turns, one section ahead.
template <typename Form>
class SectionStream {
 public:
  __device__ __forceinline__ SectionStream(const SectionRef* sections, uint32_t first, uint32_t end,
                                           uint8_t* slots)
      : sections_(sections), next_(first), end_(end), slots_(slots) {
    load_ahead();
    advance();
    start_keys();
    if constexpr (Form::kSlots == 3) start_values();
  }

  // The keys of the next section, its values after them. Each call waits for one side, which the warp may
  // read until the next call.
  __device__ __forceinline__ const uint8_t* keys() {
    __syncwarp();
    current_ = started_;
    if constexpr (Form::kSlots == 3) {
      advance();
      start_keys();
    } else {
      start_values();
    }
    return wait();
  }
  __device__ __forceinline__ const uint8_t* values() {
    __syncwarp();
    if constexpr (Form::kSlots == 3) {
      start_values();
    } else {
      advance();
      start_keys();
    }
    return wait();
  }
  __device__ __forceinline__ uint32_t key_param() const { return current_.z; }
  __device__ __forceinline__ uint32_t value_param() const { return current_.w; }

 private:
  static_assert((Form::kSlots == 2 || Form::kSlots == 3) && sizeof(SectionRef) == sizeof(uint4));

  __device__ __forceinline__ void load_ahead() {
    if (next_ < end_) ahead_ = load_as<uint4>(sections_ + next_);
  }
  __device__ __forceinline__ void advance() {
    started_ = ahead_;
    more_ = next_ < end_;
    next_ += kStagedWarps;
    load_ahead();
  }
  __device__ __forceinline__ const uint8_t* section() const {
    return reinterpret_cast<const uint8_t*>(uint64_t{started_.y} << 32 | started_.x);
  }
  __device__ __forceinline__ static uint32_t after(uint32_t slot) {
    return slot + 1 == Form::kSlots ? 0 : slot + 1;
  }
  __device__ __forceinline__ void start_keys() {
    if (more_) {
      stage_side<bits_of(Form::kKey), Form::kKeyCodes, Form::kKeyMeta, kStagedTokens>(
          slots_ + filled_ * Form::kSlotBytes, section(), section() + Form::kKeyCodes + Form::kValueCodes);
    }
    copy_async_commit();
    filled_ = after(filled_);
  }
  __device__ __forceinline__ void start_values() {
    if (more_) {
      stage_side<bits_of(Form::kValue), Form::kValueCodes, Form::kValueMeta, Form::kDim>(
          slots_ + filled_ * Form::kSlotBytes, section() + Form::kKeyCodes,
          section() + Form::kKeyCodes + Form::kValueCodes + Form::kKeyMeta);
    }
    copy_async_commit();
    filled_ = after(filled_);
  }
  __device__ __forceinline__ const uint8_t* wait() {
    copy_async_wait<Form::kSlots - 1>();
    __syncwarp();
    const uint8_t* slot = slots_ + used_ * Form::kSlotBytes;
    used_ = after(used_);
    return slot;
  }

  const SectionRef* sections_;
  uint32_t next_;  // of which ahead_ is the reference
  uint32_t end_;
  uint8_t* slots_;
  uint4 current_{};
  uint4 started_{};
  uint4 ahead_{};
  bool more_ = false;  // started_ is one
  uint32_t filled_ = 0;
  uint32_t used_ = 0;
};

// Merges the states of the warps, o [warps][rows][dim], m and l [warps][rows] in shared memory, in their
// order, into the partials of the block's run: four channels a thread at a time.
template <int kBlocks>
__device__ __forceinline__ void merge_states(const AttendArgs& args, uint32_t head, uint32_t first_row,
                                             uint32_t rows, const float* o, const float* m, const float* l) {
  constexpr uint32_t kDim = kBlocks * 32;
  const size_t out = (size_t{head} * gridDim.x + blockIdx.x) * args.rows + first_row;
  for (uint32_t i = threadIdx.x * 4; i < rows * kDim; i += blockDim.x * 4) {
    const uint32_t row = i / kDim;
    float top = kEmptyScore;
#pragma unroll
    for (uint32_t warp = 0; warp < kStagedWarps; ++warp) top = fmaxf(top, m[warp * rows + row]);
    float sum = 0.0F;
    float4 merged = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll
    for (uint32_t warp = 0; warp < kStagedWarps; ++warp) {
      const float keep = exp2_approx(m[warp * rows + row] - top);
      sum += l[warp * rows + row] * keep;
      const auto part = load_as<float4>(o + warp * rows * kDim + i);
      merged.x += part.x * keep;
      merged.y += part.y * keep;
      merged.z += part.z * keep;
      merged.w += part.w * keep;
    }
    if (first_row + row >= args.rows) continue;
    store_as<float4>(args.partials.o + (out + row) * kDim + i % kDim, merged);
    if (i % kDim == 0) {
      args.partials.m[out + row] = sum == 0.0F ? -INFINITY : top;
      args.partials.l[out + row] = sum;
    }
  }
}

template <typename Form, int kTiles>
__device__ __forceinline__ void attend_staged_section(const WarpContext& w, SectionStream<Form>& stream,
                                                      const LevelWords<Form::kKey>& key_levels,
                                                      const LevelWords<Form::kValue>& value_levels,
                                                      float* scales, const int (&first)[kTiles], bool masked,
                                                      StagedQueries<Form, kTiles>& queries,
                                                      RowState<Form::kBlocks> (&rows)[kTiles]) {
  float weights[kTiles][kTokensOfThread];
  const uint8_t* keys = stream.keys();
  score_staged<Form>(w, keys, stream.key_param(), key_levels, scales, queries, weights);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (masked) mask_staged(w.at.i, first[tile], weights[tile]);
    weigh_staged(queries.tiles[tile].scale, queries.tiles[tile].offset, weights[tile], rows[tile]);
  }
  const uint8_t* values = stream.values();
  add_staged<Form>(w, values, stream.value_param(), value_levels, scales, queries, weights, rows);
}

// Of the block's slots, whose memory takes the states of its warps in the end.
template <typename Form, int kTiles>
constexpr size_t slots_bytes() {
  constexpr size_t kSlotsOfAll = size_t{kStagedWarps} * Form::kSlots * Form::kSlotBytes;
  constexpr size_t kStates = size_t{kStagedWarps} * kTiles * 8 * Form::kDim * sizeof(float);
  return kSlotsOfAll > kStates ? kSlotsOfAll : kStates;
}

// Levels of trellis and non-uniform codecs, of keys and then of values; there after a barrier.
template <typename Form>
__device__ __forceinline__ const int8_t* fill_tables(const SectionFormat& format, Smem& shared) {
  if constexpr (Form::kTables == 0) {
    return nullptr;
  } else {
    auto* tables = shared.take<int8_t>(Form::kTables);
    static_assert(Form::kTables <= kStagedWarps * kWarpLanes);
    if (threadIdx.x < Form::kKeyTable) {
      tables[threadIdx.x] = stored_level<Form::kKey>(format, Side::kKey, threadIdx.x);
    } else if (threadIdx.x < Form::kTables) {
      tables[threadIdx.x] = stored_level<Form::kValue>(format, Side::kValue, threadIdx.x - Form::kKeyTable);
    }
    return tables;
  }
}

template <typename Form, int kTiles, int kBlocksPerProcessor>
__global__ void __launch_bounds__(kStagedWarps* kWarpLanes, kBlocksPerProcessor)
    staged_kernel(const __grid_constant__ AttendArgs args, uint32_t nothing) {
  constexpr uint32_t kRows = kTiles * 8;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  const uint32_t head = blockIdx.y;
  const uint32_t first_row = blockIdx.z * kRows;

  Smem shared;
  float* m = shared.take<float>(kStagedWarps * kRows);
  float* l = shared.take<float>(kStagedWarps * kRows);
  uint32_t* query_words = shared.take<uint32_t>(StagedQueries<Form, kTiles>::kWords);
  float* query_rows = shared.take<float>(StagedQueries<Form, kTiles>::kFloats);
  float* scales = shared.take<float>(kStagedWarps * Form::kScales) + size_t{warp} * Form::kScales;
  auto* all_slots = shared.take<uint8_t>(slots_bytes<Form, kTiles>());
  const int8_t* tables = fill_tables<Form>(args.format, shared);

  const uint32_t begin = blockIdx.x * args.run_sections;
  const uint32_t end = min(begin + args.run_sections, sections_of(args, head));
  const SectionRef* sections = args.sections + size_t{head} * args.section_stride;
  SectionStream<Form> stream(sections, begin + warp, end,
                             all_slots + size_t{warp} * Form::kSlots * Form::kSlotBytes);

  const float* q = args.q + (size_t{head} * args.rows + first_row) * Form::kDim;
  const WarpContext w{args, q, args.rows - first_row - 1, this_lane()};
  const LevelWords<Form::kKey> key_levels = level_words<Form::kKey>(nothing, tables);
  const LevelWords<Form::kValue> value_levels =
      level_words_beside<Form::kValue>(key_levels, nothing, tables + Form::kKeyTable);
  RowState<Form::kBlocks> rows[kTiles];
  clear_rows(rows);
  StagedQueries<Form, kTiles> queries;
  fix_queries(w, warp, query_words, query_rows, queries);
  __syncthreads();
  for (uint32_t s = begin + warp; s < end; s += kStagedWarps) {
    const uint32_t sinks = s == 0 ? args.format.sink_tokens : 0;
    int first[kTiles];
    bool masked = sinks > 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int seen = visible_from(args, first_row + 8 * static_cast<uint32_t>(tile) + w.at.g, s);
      first[tile] = max(seen, static_cast<int>(sinks));
      masked = masked || seen > 0;
    }
    if (sinks > 0) attend_sinks(w, sections[s], first_row, sinks, rows);
    attend_staged_section<Form>(w, stream, key_levels, value_levels, scales, first,
                                __any_sync(kAllLanes, masked ? 1 : 0) != 0, queries, rows);
  }
  close_rows(rows);
  // The slots are done with: their memory takes the states.
  copy_async_wait<0>();
  __syncthreads();
  auto* o = reinterpret_cast<float*>(all_slots);
  store_rows(w, rows, o + size_t{warp} * kRows * Form::kDim, m + warp * kRows, l + warp * kRows);
  __syncthreads();
  merge_states<Form::kBlocks>(args, head, first_row, kRows, o, m, l);
}

template <typename Form, int kTiles, int kBlocksPerProcessor>
cudaError_t launch_staged(const AttendArgs& args, cudaStream_t stream) {
  constexpr uint32_t kRows = kTiles * 8;
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kRows - 1) / kRows);
  using Queries = StagedQueries<Form, kTiles>;
  constexpr size_t kFloats =
      2 * kStagedWarps * kRows + Queries::kWords + Queries::kFloats + kStagedWarps * Form::kScales;
  return launch({grid, kStagedWarps * kWarpLanes,
                 kFloats * sizeof(float) + slots_bytes<Form, kTiles>() + Form::kTables, stream},
                staged_kernel<Form, kTiles, kBlocksPerProcessor>, args, 0U);
}

// Two tiles of rows share what is done per section, where there are that many rows and registers.
template <CodecId kKey, CodecId kValue, int kBlocks>
cudaError_t attend_pair_dim(const AttendArgs& args, cudaStream_t stream) {
  using Form = StagedForm<kKey, kValue, kBlocks>;
  // One of a trellis is a loop of look-ups: nothing is left for a second tile.
  constexpr bool kRotated = is_rotated(kKey) && is_rotated(kValue);
  constexpr bool kTwoPlanes = bits_of(kKey) == 3 || bits_of(kValue) == 3;
  if constexpr (kBlocks <= 2 || (kRotated && !kTwoPlanes)) {
    if (args.rows > 8) return launch_staged<Form, 2, 2>(args, stream);
  }
  return launch_staged < Form, 1, Form::kSlots == 3 ? 3 : 2 > (args, stream);
}
template <CodecId kKey, CodecId kValue>
cudaError_t attend_pair(const AttendArgs& args, cudaStream_t stream) {
  switch (args.format.shape.dim) {
    case 64:
      return attend_pair_dim<kKey, kValue, 2>(args, stream);
    case 128:
      return attend_pair_dim<kKey, kValue, 4>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace quire::cuda
