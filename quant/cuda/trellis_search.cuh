// The cheapest path of a lane through a trellis, by one thread with the costs of all states in its registers.
// Which way led to each state, 32 bits an element, goes to shared memory and is followed back from the end.
// Every element costs 64 ways, whatever the codec.
#pragma once

#include "quant/cuda/numbers.cuh"
#include "quant/cuda/trellis_tables.cuh"

namespace quire::cuda {

inline constexpr int kLastTarget = 127;

// Calls body with 0, 1, .. kCount - 1 as constants.
template <int kCount, typename Body>
__device__ __forceinline__ void unrolled(Body body) {
  [&]<int... kI>(std::integer_sequence<int, kI...>) { (body(std::integral_constant<int, kI>{}), ...); }
  (std::make_integer_sequence<int, kCount>{});
}

template <uint32_t kBits>
struct Search {
  static constexpr Trellis kTrellis = trellis_of(kBits);
  static constexpr int kStates = static_cast<int>(kTrellis.states());
  static constexpr int kWays = 1 << kBits;
  // Above the cost of any path, which is below 2^24; times the number of ways still an int32_t.
  static constexpr int kClosed = (1 << 25) * kWays;

  static constexpr uint32_t window_of(uint32_t state, uint32_t way) {
    return state << kTrellis.history_bits | (way & ((1U << kTrellis.history_bits) - 1));
  }
  static constexpr uint32_t level_at(uint32_t state, uint32_t way) {
    return window_of(state, way) | way >> kTrellis.history_bits << kTrellis.window_bits;
  }
  static constexpr uint32_t before(uint32_t window) { return window & (kTrellis.states() - 1); }

  // The costs of the cheapest paths to each state, times the number of ways: the number of the way that is
  // added to a sum makes the first of equals the least, and tells which it was.
  int costs[kStates];

  // On to the next element, whose target is y; returns the ways into all states.
  __device__ __forceinline__ uint32_t advance(int y) {
    int next[kStates];
    uint32_t ways = 0;
    unrolled<kStates>([&](auto state) {
      int best = 0;
      unrolled<kWays>([&](auto way) {
        constexpr int kLevel = kTrellis.levels[level_at(decltype(state)::value, decltype(way)::value)];
        constexpr int kFixed = kLevel * kLevel * kWays + decltype(way)::value;
        constexpr int kPerTarget = -2 * kLevel * kWays;
        const int cost = costs[before(window_of(decltype(state)::value, decltype(way)::value))] +
                         (kPerTarget * y + kFixed);
        best = decltype(way)::value == 0 ? cost : min(best, cost);
      });
      next[decltype(state)::value] = best & ~(kWays - 1);
      ways |= static_cast<uint32_t>(best & (kWays - 1))
              << (static_cast<uint32_t>(decltype(state)::value) * kBits);
    });
    unrolled<kStates>([&](auto state) { costs[decltype(state)::value] = next[decltype(state)::value]; });
    return ways;
  }
  // Every state open, or one alone.
  __device__ __forceinline__ void open_all() {
    unrolled<kStates>([&](auto state) { costs[decltype(state)::value] = 0; });
  }
  __device__ __forceinline__ void open_only(uint32_t open) {
    unrolled<kStates>([&](auto state) {
      costs[decltype(state)::value] = static_cast<uint32_t>(decltype(state)::value) == open ? 0 : kClosed;
    });
  }
  // The first of the cheapest.
  __device__ __forceinline__ uint32_t best_state() const {
    uint32_t best = 0;
    int least = costs[0];
    unrolled<kStates>([&](auto state) {
      if (costs[decltype(state)::value] < least) {
        best = static_cast<uint32_t>(decltype(state)::value);
        least = costs[decltype(state)::value];
      }
    });
    return best;
  }
  __device__ __forceinline__ static uint32_t way_into(uint32_t ways, uint32_t state) {
    return ways >> (state * kBits) & (kWays - 1);
  }
};

// One lane: what stands in its column, [place][stride].
struct Column {
  int8_t* targets;      // become levels
  uint32_t* survivors;  // become codes
  uint32_t target_stride;
  uint32_t survivor_stride;
  uint32_t chain;
};

// The state in which the ring is closed. Called by single threads, as the next one.
template <uint32_t kBits>
__device__ __forceinline__ uint32_t find_seam(const Column& column) {
  using S = Search<kBits>;
  S search;
  search.open_all();
#pragma unroll 1
  for (uint32_t i = 0; i < 2 * kSeamReach; ++i) {
    const uint32_t place = i < kSeamReach ? column.chain - kSeamReach + i : i - kSeamReach;
    column.survivors[i * column.survivor_stride] =
        search.advance(column.targets[place * column.target_stride]);
  }
  uint32_t state = search.best_state();
  for (uint32_t i = 2 * kSeamReach; i-- > kSeamReach;) {
    const uint32_t way = S::way_into(column.survivors[i * column.survivor_stride], state);
    state = S::before(S::window_of(state, way));
  }
  return state;
}

// levels: [64] in shared memory.
template <uint32_t kBits>
__device__ __forceinline__ void code_lane(const Column& column, const int8_t* levels) {
  using S = Search<kBits>;
  constexpr Trellis kTrellis = S::kTrellis;
  uint32_t state = find_seam<kBits>(column);
  S search;
  search.open_only(state);
#pragma unroll 1
  for (uint32_t place = 0; place < column.chain; ++place) {
    column.survivors[place * column.survivor_stride] =
        search.advance(column.targets[place * column.target_stride]);
  }
  for (uint32_t place = column.chain; place-- > 0;) {
    uint32_t& survivor = column.survivors[place * column.survivor_stride];
    const uint32_t way = S::way_into(survivor, state);
    const uint32_t window = S::window_of(state, way);
    const uint32_t history = window >> (kTrellis.window_bits - kTrellis.history_bits);
    survivor = history << kTrellis.rest_bits | way >> kTrellis.history_bits;
    column.targets[place * column.target_stride] = levels[S::level_at(state, way)];
    state = S::before(window);
  }
}

}  // namespace quire::cuda
