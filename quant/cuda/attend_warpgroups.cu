// Prefill attention over rotated and trellis codecs in pages of 64 tokens on Hopper: 64 rows a group of four
// warps, two such groups a block.
//
// Sections are unpacked once for all rows of a call (unpack_pairs.cu), as many at a time as scratch takes;
// where that are not all of a run, a launch goes on from the partials of the one before. A third group has
// the bulk engine bring pairs to shared memory, and each of the two goes through them at its own pace
// (pair_rows.cuh): while one has its softmax the other has its products, which take operands from shared
// memory and hold up nobody.
#include "quant/cuda/attend_dims.h"
#include "quant/cuda/pair_rows.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kGroups = 2;
constexpr uint32_t kRowThreads = kGroups * kGroupThreads;
constexpr uint32_t kThreads = kRowThreads + kGroupThreads;  // one group more starts copies
// Of a thread's registers, 168 when the block starts.
constexpr int kCopyRegisters = 24;
constexpr int kRowRegisters = 240;
constexpr uint32_t kRows = kGroups * kGroupRows;
constexpr uint32_t kSlots = 5;  // of pairs

// Where a pair is to be found, one after the other.
struct Slot {
  uint32_t index = 0;
  uint32_t parity = 0;  // of the phases of its barriers

  __device__ __forceinline__ Slot next() const {
    return index + 1 == kSlots ? Slot{0, parity ^ 1} : Slot{index + 1, parity};
  }
};

// The span's pairs of one run and head, on their way from scratch.
template <int kBlocks>
struct PairQueue {
  static constexpr uint32_t kSlotBytes = Pair<kBlocks>::kBytes + Pair<kBlocks>::kMeanBytes;
  const uint8_t* base;
  uint32_t count;
  uint8_t* slots;
  CopyBarrier* full;   // [kSlots]
  CopyBarrier* empty;  // [kSlots]

  // Of the last pair of a group, and of the run: means of values come with it.
  __device__ __forceinline__ bool settles(uint32_t pair) const {
    return pair % kPairsAtOnce + 1 == kPairsAtOnce || pair + 1 == count;
  }
  __device__ __forceinline__ uint8_t* at(Slot slot) const { return slots + slot.index * kSlotBytes; }
  // All pairs, by one thread.
  __device__ __forceinline__ void copy_all() const {
    Slot slot;
    for (uint32_t pair = 0; pair < count; ++pair, slot = slot.next()) {
      if (pair >= kSlots) await(empty + slot.index, slot.parity ^ 1);
      const uint8_t* group = base + size_t{pair / kPairsAtOnce} * Pair<kBlocks>::kGroupBytes;
      CopyBarrier* barrier = full + slot.index;
      const bool means = settles(pair);
      arrive_expecting(barrier, Pair<kBlocks>::kBytes + (means ? Pair<kBlocks>::kMeanBytes : 0));
      copy_bulk(at(slot), group + pair % kPairsAtOnce * Pair<kBlocks>::kBytes, Pair<kBlocks>::kBytes,
                barrier);
      if (means) {
        copy_bulk(at(slot) + Pair<kBlocks>::kBytes, group + kPairsAtOnce * Pair<kBlocks>::kBytes,
                  Pair<kBlocks>::kMeanBytes, barrier);
      }
    }
  }
  __device__ __forceinline__ void await_pair(Slot slot) const { await(full + slot.index, slot.parity); }
  // By every warp, when it is done with the pair.
  __device__ __forceinline__ void release(Slot slot) const {
    __syncwarp();
    if (threadIdx.x % kWarpLanes == 0) arrive(empty + slot.index);
  }
};

template <int kBlocks>
constexpr size_t shared_bytes() {
  return size_t{kSlots} * PairQueue<kBlocks>::kSlotBytes + size_t{kRows} * kBlocks * 32 +
         kRows * sizeof(float) + 2 * kSlots * sizeof(CopyBarrier);
}

template <int kBlocks>
__device__ __forceinline__ void store_rows(const AttendArgs& args, uint32_t head, uint32_t first_row, Lane at,
                                           PairRows& rows, const float (&o)[kBlocks / 2][32]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t row = first_row + at.g + 8 * static_cast<uint32_t>(half);
    if (row >= args.rows) continue;
    const size_t out = partial_of(args, head, row);
    float* to = args.partials.o + out * kBlocks * 32 + 2 * at.i;
#pragma unroll
    for (uint32_t n = 0; n < kBlocks * 4; ++n)
      store_as<float2>(to + 8 * n,
                       make_float2(o[n / 8][n % 8 * 4 + 2 * half], o[n / 8][n % 8 * 4 + 2 * half + 1]));
    if (at.i != 0) continue;
    args.partials.m[out] = rows.l[half] == 0.0F ? -INFINITY : rows.m[half];
    args.partials.l[out] = rows.l[half];
  }
}

// The state that the launch before left.
template <int kBlocks>
__device__ __forceinline__ void load_rows(const AttendArgs& args, uint32_t head, uint32_t first_row, Lane at,
                                          PairRows& rows, float (&o)[kBlocks / 2][32]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const size_t in =
        partial_of(args, head, min(first_row + at.g + 8 * static_cast<uint32_t>(half), args.rows - 1));
    const float* from = args.partials.o + in * kBlocks * 32 + 2 * at.i;
#pragma unroll
    for (uint32_t n = 0; n < kBlocks * 4; ++n) {
      const auto two = load_as<float2>(from + 8 * n);
      o[n / 8][n % 8 * 4 + 2 * half] = two.x;
      o[n / 8][n % 8 * 4 + 2 * half + 1] = two.y;
    }
    rows.m[half] = fmaxf(args.partials.m[in], kEmptyScore);
    rows.l[half] = args.partials.l[in];
  }
}

// One unfolded token: keys and values in bf16. q: of the head.
template <int kBlocks>
__device__ __forceinline__ void attend_sink(const AttendArgs& args, const uint8_t* section, uint32_t token,
                                            const float* q, uint32_t first_row, Lane at, PairRows& rows,
                                            float (&o)[kBlocks / 2][32]) {
  constexpr uint32_t kDim = kBlocks * 32;
  const SectionLayout& layout = args.format.layout;
  const uint8_t* keys = section + layout.sink_keys + sizeof(uint16_t) * (token * kDim + 2 * at.i);
  const uint8_t* values = section + layout.sink_values + sizeof(uint16_t) * (token * kDim + 2 * at.i);
  const auto bf16_at = [](const uint8_t* row, uint32_t channel) {  // rows are 2-byte aligned only
    return bf16_bits_to_float(load_as<uint16_t>(row + sizeof(uint16_t) * channel));
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t row = min(first_row + at.g + 8 * static_cast<uint32_t>(half), args.rows - 1);
    const float* query = q + size_t{row} * kDim + 2 * at.i;
    float score = 0.0F;
#pragma unroll 1
    for (uint32_t n = 0; n < kBlocks * 4; ++n) {
      const auto two = load_as<float2>(query + 8 * n);
      score += two.x * bf16_at(keys, 8 * n) + two.y * bf16_at(keys, 8 * n + 1);
    }
    score = quad_sum(score);
    const bool seen = static_cast<int>(token) >= rows.seen_from[half];
    const float m = seen ? fmaxf(rows.m[half], score) : rows.m[half];
    const float keep = exp2_approx(rows.m[half] - m);
    const float weight = seen ? exp2_approx(score - m) : 0.0F;
    rows.m[half] = m;
    rows.l[half] = rows.l[half] * keep + weight;
#pragma unroll
    for (uint32_t n = 0; n < kBlocks * 4; ++n) {
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        float& x = o[n / 8][n % 8 * 4 + 2 * half + e];
        x = x * keep + weight * bf16_at(values, 8 * n + e);
      }
    }
  }
}

// What one warp of a group does: 16 rows from first_row on. queries: the group's operand; scales: the warp's.
template <int kBlocks>
__device__ __forceinline__ void attend_rows(const AttendArgs& args, const SectionSpan& span,
                                            const PairQueue<kBlocks>& queue, uint32_t sections, uint32_t head,
                                            uint32_t first_row, const uint8_t* queries, const float* scales) {
  const Lane at = this_lane();
  const uint32_t begin = blockIdx.x * args.run_sections + span.first;
  const float* q = args.q + size_t{head} * args.rows * kBlocks * 32;
  PairRows rows{};
  float o[kBlocks / 2][32];
#pragma unroll
  for (auto& part : o) {
#pragma unroll
    for (float& x : part) x = 0.0F;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t of_warp = at.g + 8 * static_cast<uint32_t>(half);
    const uint32_t row = min(first_row + of_warp, args.rows - 1);
    const int32_t seen = args.first_token == nullptr ? 0 : args.first_token[row];
    rows.scale[half] = scales[of_warp];
    rows.seen_from[half] = seen - static_cast<int32_t>(begin * kPrefillTokens);
    rows.m[half] = kEmptyScore;
  }
  const uint32_t sinks = begin == 0 ? args.format.sink_tokens : 0;
  if (span.first > 0) {
    load_rows<kBlocks>(args, head, first_row, at, rows, o);
  } else {
#pragma unroll 1
    for (uint32_t token = 0; token < sinks; ++token)
      attend_sink<kBlocks>(args, args.sections[size_t{head} * args.section_stride].section, token, q,
                           first_row, at, rows, o);
  }

  const CoreMatrix of_queries = core_matrix(queries, kGroupRows * kCoreWidth, kCoreBytes);
  int first_sums[kSectionSums];
  Slot slot;
  queue.await_pair(slot);
  begin_products();
  begin_keys<kBlocks>(of_queries, keys_of<kBlocks>(queue.at(slot)), 0, first_sums);
  commit_products();
  await_products<0>(first_sums);
#pragma unroll 1
  for (uint32_t pair = 0; pair < queue.count; ++pair) {
    const PairPlace place{static_cast<int>(pair * kPairTokens), static_cast<int>(pair == 0 ? sinks : 0),
                          static_cast<int>(min(kPairTokens, (sections - 2 * pair) * kPrefillTokens)),
                          pair % kPairsAtOnce};
    // Behind the last pair products are of its own keys, and nobody's.
    const Slot next = pair + 1 < queue.count ? slot.next() : slot;
    const auto await_next = [&] {
      queue.await_pair(next);
      return queue.at(next);
    };
    attend_pair<kBlocks>(at, of_queries, queue.at(slot), place, await_next, first_sums, rows, o);
    if (queue.settles(pair)) add_means(queue.at(slot) + Pair<kBlocks>::kBytes, rows, o);
    queue.release(slot);
    slot = next;
  }
  store_rows<kBlocks>(args, head, first_row, at, rows, o);
}

template <int kBlocks>
__global__ void __launch_bounds__(kThreads, 1)
    attend_warpgroups_kernel(const __grid_constant__ AttendArgs args,
                             const __grid_constant__ SectionSpan span) {
  constexpr uint32_t kDim = kBlocks * 32;
  const uint32_t head = blockIdx.y;
  const uint32_t sections = sections_here(args, span, head, blockIdx.x);
  if (sections == 0) {  // the whole block: an earlier launch has ended its run, or it has none
    if (span.first == 0) store_empty<kBlocks>(args, head, blockIdx.z * kRows, kRows);
    return;
  }
  Smem shared;
  PairQueue<kBlocks> queue;
  queue.base = pair_group_at<kBlocks>(args, span, gridDim.x, head, blockIdx.x, 0);
  queue.count = (sections + 1) / 2;
  queue.slots = shared.take<uint8_t>(size_t{kSlots} * PairQueue<kBlocks>::kSlotBytes);
  auto* queries = shared.take<uint8_t>(size_t{kRows} * kDim);
  auto* scales = shared.take<float>(kRows);
  queue.full = shared.take<CopyBarrier>(2 * kSlots);
  queue.empty = queue.full + kSlots;
  if (threadIdx.x < kSlots) {
    init_barrier(queue.full + threadIdx.x, 1);
    init_barrier(queue.empty + threadIdx.x, kRowThreads / kWarpLanes);
  }
  // By a shuffle the compiler knows that it is the same for the warp, and keeps what follows from it once.
  const uint32_t group = __shfl_sync(kAllLanes, threadIdx.x / kGroupThreads, 0);
  const uint32_t warp_row = threadIdx.x % kGroupThreads / kWarpLanes * 16;  // of the group's
  const uint32_t first_row = blockIdx.z * kRows + group * kGroupRows + warp_row;
  uint8_t* of_group = queries + size_t{group} * kGroupRows * kDim;
  float* of_warp = scales + group * kGroupRows + warp_row;
  if (group < kGroups) {
    quantise_queries<kBlocks>(args.q + size_t{head} * args.rows * kDim, is_requantised(args.format.key),
                              first_row, args.rows, warp_row, of_group, of_warp);
  }
  publish_to_copies();
  __syncthreads();
  if (group == kGroups) {
    give_registers<kCopyRegisters>();
    if (threadIdx.x == kRowThreads) queue.copy_all();
  } else {
    take_registers<kRowRegisters>();
    attend_rows<kBlocks>(args, span, queue, sections, head, first_row, of_group, of_warp);
  }
}

template <int kBlocks>
cudaError_t launch_prefill(const AttendArgs& args, cudaStream_t stream) {
  const dim3 grid(run_count(args), args.kv_heads, (args.rows + kRows - 1) / kRows);
  return attend_spans(args, Pair<kBlocks>::kGroupBytes, [&](const SectionSpan& span) {
    const cudaError_t error = unpack_pairs(args, span, stream);
    if (error != cudaSuccess) return error;
    return launch({grid, kThreads, shared_bytes<kBlocks>(), stream}, attend_warpgroups_kernel<kBlocks>, args,
                  span);
  });
}

}  // namespace

cudaError_t attend_prefill_warpgroups(const AttendArgs& args, cudaStream_t stream) {
  if (!has_prefill_tiles(args)) return cudaErrorNotSupported;
  if (args.section_count == 0 || args.rows == 0) return cudaSuccess;
  return args.format.shape.dim == 64 ? launch_prefill<2>(args, stream) : launch_prefill<4>(args, stream);
}

}  // namespace quire::cuda
