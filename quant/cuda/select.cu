// The choice of pages per kv head (kvcache/select.h), one block each. Weights are never sorted: the weight of
// the last page that is taken is found bit by bit, and of those that weigh the same the oldest are taken.
#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kMaxRows = 16;

// Shared memory of a block.
struct Workplace {
  float* scratch;    // [32]
  double* sums;      // [32]
  float* highest;    // [rows]
  double* held;      // [rows]
  uint32_t* counts;  // [kThreads]
};

// What a block chooses among: one kv head.
struct Choice {
  uint32_t count;
  uint32_t rows;
  float* share;  // [rows][count]
  const float* peak;
  uint8_t* chosen;
};

__device__ __forceinline__ double block_sum(double value, double* sums) {
  return block_reduce(value, sums, SumOf{});
}

// Every thread has the pages first .. end - 1, neighbours in order: ties are counted by them.
struct Stretch {
  uint32_t first;
  uint32_t end;
};
__device__ __forceinline__ Stretch own_stretch(uint32_t count) {
  const uint32_t each = (count + kThreads - 1) / kThreads;
  const uint32_t first = min(threadIdx.x * each, count);
  return {first, min(first + each, count)};
}

// Masses to shares of their sums.
__device__ __forceinline__ void to_shares(const Choice& choice, const Workplace& place) {
  for (uint32_t row = 0; row < choice.rows; ++row) {
    float* mass = choice.share + size_t{row} * choice.count;
    float largest = -INFINITY;
    for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads) largest = fmaxf(largest, mass[i]);
    largest = block_reduce(largest, place.scratch, MaxOf{});
    double sum = 0;
    for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads) {
      // By way of f64: f32's own would be off by two units in the last place.
      mass[i] = static_cast<float>(exp2(static_cast<double>(__fsub_rn(mass[i], largest))));
      sum += static_cast<double>(mass[i]);
    }
    const auto inverse = static_cast<float>(1.0 / block_sum(sum, place.sums));
    for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads) mass[i] = __fmul_rn(mass[i], inverse);
  }
  __syncthreads();
}

// What a page weighs: its largest share, or its highest peak below the row's highest.
struct ByShare {
  const Choice& choice;
  __device__ __forceinline__ float operator()(uint32_t page) const {
    float weight = choice.share[page];
    for (uint32_t row = 1; row < choice.rows; ++row)
      weight = fmaxf(weight, choice.share[size_t{row} * choice.count + page]);
    return weight;
  }
};
struct ByPeak {
  const Choice& choice;
  const float* highest;
  __device__ __forceinline__ float operator()(uint32_t page) const {
    float weight = -INFINITY;
    for (uint32_t row = 0; row < choice.rows; ++row) {
      weight = fmaxf(weight, __fsub_rn(choice.peak[size_t{row} * choice.count + page], highest[row]));
    }
    return weight;
  }
};

__device__ __forceinline__ void find_highest(const Choice& choice, const Workplace& place) {
  for (uint32_t row = 0; row < choice.rows; ++row) {
    float highest = -INFINITY;
    for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads)
      highest = fmaxf(highest, choice.peak[size_t{row} * choice.count + i]);
    highest = block_reduce(highest, place.scratch, MaxOf{});
    if (threadIdx.x == 0) place.highest[row] = highest;
  }
  __syncthreads();
}

// Keys in the order of weights.
__device__ __forceinline__ uint32_t order_key(float weight) {
  const uint32_t bits = __float_as_uint(__fadd_rn(weight, 0.0F));  // -0 is 0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The largest key such that enough(key) holds, which says whether the pages not chosen yet at or above a key
// are enough. enough(0) is taken for granted. All threads get it.
template <typename Enough>
__device__ __forceinline__ uint32_t find_key(Enough enough) {
  uint32_t key = 0;
  for (uint32_t bit = 0x80000000U; bit != 0; bit >>= 1) {
    if (enough(key | bit)) key |= bit;
  }
  return key;
}

// Chooses what is above `key` and of its equals the first `ties`.
template <typename Weight>
__device__ __forceinline__ void choose_above(const Choice& choice, const Workplace& place, Weight weight,
                                             uint32_t key, uint32_t ties) {
  const Stretch mine = own_stretch(choice.count);
  uint32_t equals = 0;
  for (uint32_t i = mine.first; i < mine.end; ++i) {
    equals += choice.chosen[i] == 0 && order_key(weight(i)) == key ? 1U : 0U;
  }
  place.counts[threadIdx.x] = equals;
  __syncthreads();
  uint32_t before = 0;
  for (uint32_t other = 0; other < threadIdx.x; ++other) before += place.counts[other];
  for (uint32_t i = mine.first; i < mine.end; ++i) {
    if (choice.chosen[i] != 0) continue;
    const uint32_t own = order_key(weight(i));
    if (own > key || (own == key && before < ties)) choice.chosen[i] = 1;
    before += own == key ? 1U : 0U;
  }
  __syncthreads();
}

template <typename Weight>
__device__ __forceinline__ uint32_t count_from(const Choice& choice, const Workplace& place, Weight weight,
                                               uint32_t key) {
  int count = 0;
  for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads) {
    count += choice.chosen[i] == 0 && order_key(weight(i)) >= key ? 1 : 0;
  }
  return static_cast<uint32_t>(block_reduce(count, reinterpret_cast<int*>(place.scratch), SumOf{}));
}

// The heaviest `pages` of those not chosen yet.
template <typename Weight>
__device__ __forceinline__ void choose_top(const Choice& choice, const Workplace& place, Weight weight,
                                           uint32_t pages) {
  if (pages == 0) return;
  const uint32_t key =
      find_key([&](uint32_t from) { return count_from(choice, place, weight, from) >= pages; });
  const uint32_t above = key == 0xFFFFFFFFU ? 0 : count_from(choice, place, weight, key + 1);
  choose_above(choice, place, weight, key, pages - min(above, pages));
}

// The fewest pages, heaviest first, that hold `share` of every row.
__device__ __forceinline__ void choose_mass(const Choice& choice, const Workplace& place, float share) {
  const ByShare weight{choice};
  // Whether the chosen pages and those from `key` on hold enough of every row.
  const auto enough = [&](uint32_t key) {
    bool all = true;
    for (uint32_t row = 0; row < choice.rows; ++row) {
      const float* shares = choice.share + size_t{row} * choice.count;
      double held = 0;
      for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads) {
        if (choice.chosen[i] != 0 || order_key(weight(i)) >= key) held += static_cast<double>(shares[i]);
      }
      held = block_sum(held, place.sums);
      if (threadIdx.x == 0) place.held[row] = held;
      all = all && held >= static_cast<double>(share);
    }
    return all;
  };
  if (enough(0xFFFFFFFFU)) return;  // what is chosen already
  const uint32_t key = find_key(enough);
  (void)enough(key + 1);  // what all above hold, in place.held
  __syncthreads();
  QUIRE_SHARED(uint32_t, ties);
  if (threadIdx.x == 0) {
    uint32_t taken = 0;
    for (uint32_t i = 0; i < choice.count; ++i) {
      if (choice.chosen[i] != 0 || order_key(weight(i)) != key) continue;
      bool held = true;
      for (uint32_t row = 0; row < choice.rows; ++row)
        held = held && place.held[row] >= static_cast<double>(share);
      if (held) break;
      for (uint32_t row = 0; row < choice.rows; ++row)
        place.held[row] += static_cast<double>(choice.share[size_t{row} * choice.count + i]);
      ++taken;
    }
    ties = taken;
  }
  __syncthreads();
  choose_above(choice, place, weight, key, ties);
}

__device__ __forceinline__ void note_left_out(const Choice& choice, const Workplace& place, float* left_out) {
  for (uint32_t row = 0; row < choice.rows; ++row) {
    double held = 0;
    double missed = 0;
    for (uint32_t i = threadIdx.x; i < choice.count; i += kThreads) {
      const auto share = static_cast<double>(choice.share[size_t{row} * choice.count + i]);
      (choice.chosen[i] == 0 ? missed : held) += share;
    }
    held = block_sum(held, place.sums);
    missed = block_sum(missed, place.sums);
    if (threadIdx.x == 0) left_out[row] = static_cast<float>(log2(missed) - log2(held));
  }
}

__global__ void __launch_bounds__(kThreads) select_kernel(const __grid_constant__ SelectArgs args) {
  Smem shared;
  const Workplace place{shared.take<float>(32), shared.take<double>(32), shared.take<float>(kMaxRows),
                        shared.take<double>(kMaxRows), shared.take<uint32_t>(kThreads)};
  const uint32_t head = blockIdx.x;
  const size_t of_head = size_t{head} * args.count;
  const Choice choice{args.count, args.rows, args.mass + of_head * args.rows, args.peak + of_head * args.rows,
                      args.chosen + of_head};
  for (uint32_t i = threadIdx.x; i < args.count; i += kThreads) {
    choice.chosen[i] = args.always[of_head + i] != 0 ? 1 : 0;
  }
  to_shares(choice, place);
  if (args.share > 0.0F) {
    choose_mass(choice, place, args.share);
  } else {
    choose_top(choice, place, ByShare{choice}, args.pages - args.pages / 2);
    find_highest(choice, place);
    choose_top(choice, place, ByPeak{choice, place.highest}, args.pages / 2);
  }
  note_left_out(choice, place, args.left_out + size_t{head} * args.rows);
}

}  // namespace

cudaError_t select_pages(const SelectArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.rows > kMaxRows) return cudaErrorInvalidValue;
  if (args.count == 0 || args.kv_heads == 0) return cudaSuccess;
  constexpr size_t kBytes = (32 + kMaxRows) * (sizeof(float) + sizeof(double)) + kThreads * sizeof(uint32_t);
  return launch({args.kv_heads, kThreads, kBytes, stream}, select_kernel, args);
}

}  // namespace quire::cuda
