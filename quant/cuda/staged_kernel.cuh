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
    load_params();
    start_keys(slots_);
    if constexpr (Form::kSlots == 3) start_values(slots_ + Form::kSlotBytes);
  }

  // The keys of the next section, its values after them. Each call waits for one side, which the warp may
  // read until the next call.
  __device__ __forceinline__ const uint8_t* keys() {
    __syncwarp();
    params_ = next_params_;
    if constexpr (Form::kSlots == 3) {
      advance();
      start_keys(free_slot());
    } else {
      start_values(free_slot());
    }
    return wait();
  }
  __device__ __forceinline__ const uint8_t* values() {
    __syncwarp();
    if constexpr (Form::kSlots == 3) {
      start_values(free_slot());
    } else {
      advance();
      start_keys(free_slot());
    }
    load_params();
    return wait();
  }
  __device__ __forceinline__ uint32_t key_param() const { return params_.x; }
  __device__ __forceinline__ uint32_t value_param() const { return params_.y; }

 private:
  static_assert(Form::kSlots == 2 || Form::kSlots == 3);

  __device__ __forceinline__ void load_ahead() {
    if (next_ < end_) ahead_ = sections_[next_].section;
  }
  __device__ __forceinline__ void advance() {
    started_ = ahead_;
    more_ = next_ < end_;
    next_ += kStagedWarps;
    load_ahead();
  }
  // Of started_, which are needed later than where it lies.
  __device__ __forceinline__ void load_params() {
    if (more_) next_params_ = load_as<uint2>(&sections_[next_ - kStagedWarps].key_param);
  }
  // The one before that to be waited for next: the warp has read it.
  __device__ __forceinline__ uint8_t* free_slot() const {
    return slots_ + (used_ == 0 ? Form::kSlots - 1 : used_ - 1) * Form::kSlotBytes;
  }
  __device__ __forceinline__ void start_keys(uint8_t* slot) {
    if (more_) {
      stage_side<bits_of(Form::kKey), Form::kKeyCodes, Form::kKeyMeta, kStagedTokens>(
          slot, started_, started_ + Form::kKeyCodes + Form::kValueCodes);
    }
    copy_async_commit();
  }
  __device__ __forceinline__ void start_values(uint8_t* slot) {
    if (more_) {
      stage_side<bits_of(Form::kValue), Form::kValueCodes, Form::kValueMeta, Form::kDim>(
          slot, started_ + Form::kKeyCodes, started_ + Form::kKeyCodes + Form::kValueCodes + Form::kKeyMeta);
    }
    copy_async_commit();
  }
  __device__ __forceinline__ const uint8_t* wait() {
    copy_async_wait<Form::kSlots - 1>();
    __syncwarp();
    const uint8_t* slot = slots_ + used_ * Form::kSlotBytes;
    used_ = used_ + 1 == Form::kSlots ? 0 : used_ + 1;
    return slot;
  }

  const SectionRef* sections_;
  uint32_t next_;  // of which ahead_ is the reference
  uint32_t end_;
  uint8_t* slots_;
  const uint8_t* started_ = nullptr;
  const uint8_t* ahead_ = nullptr;
  uint2 params_{};
  uint2 next_params_{};  // of started_
  bool more_ = false;    // started_ is one
  uint32_t used_ = 0;    // the slot to be waited for next
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

// hidden(tile): tokens of the section below it are not seen by the tile's row. It is asked again where there
// are some, which is seldom: kept, it would take registers while there are scores.
template <typename Form, int kTiles, typename Hidden>
__device__ __forceinline__ void attend_staged_section(const WarpContext& w, SectionStream<Form>& stream,
                                                      const LevelWords<Form::kKey>& key_levels,
                                                      const LevelWords<Form::kValue>& value_levels,
                                                      float* scales, const Hidden& hidden,
                                                      StagedQueries<Form, kTiles>& queries,
                                                      RowState<Form::kBlocks> (&rows)[kTiles]) {
  int any_hidden = 0;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) any_hidden |= hidden(tile);
  const bool masked = __any_sync(kAllLanes, any_hidden) != 0;
  float weights[kTiles][kTokensOfThread];
  const uint8_t* keys = stream.keys();
  score_staged<Form>(w, keys, stream.key_param(), key_levels, scales, queries, weights);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (masked) mask_staged(w.at.i, hidden(tile), weights[tile]);
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
  if (begin + warp == 0 && end > 0) attend_sinks(w, *sections, first_row, args.format.sink_tokens, rows);
  for (uint32_t s = begin + warp; s < end; s += kStagedWarps) {
    const auto hidden = [&](int tile) {
      const int seen = visible_from(args, first_row + 8 * static_cast<uint32_t>(tile) + w.at.g, s);
      return s == 0 ? max(seen, static_cast<int>(args.format.sink_tokens)) : seen;
    };
    attend_staged_section<Form>(w, stream, key_levels, value_levels, scales, hidden, queries, rows);
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
