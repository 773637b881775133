// The cheapest path of each lane through a trellis: Viterbi's algorithm in sixteen lanes at a time.
//
// Costs are integers times 2^bits. The bits below hold the number of the way that a path came by, so that one
// minimum chooses the path, remembers the way, and takes the first of equals. 64 ways lead from one element
// to the next: per element and sixteen lanes 64 products and additions and about as many minima, which bound
// it. Thread safety: touches only its arguments.
#pragma once

#include <array>

#include "quant/cpu/lanes-inl.h"
#include "quant/cpu/pack-inl.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

template <uint32_t kBits>
struct Viterbi {
  static constexpr Trellis kTrellis = trellis_of(kBits);
  static constexpr uint32_t kHistory = kTrellis.history_bits;
  static constexpr uint32_t kWindow = kTrellis.window_bits;
  static constexpr uint32_t kRest = kTrellis.rest_bits;
  static constexpr uint32_t kStates = kTrellis.states();
  static constexpr int32_t kHistoryMask = (1 << kHistory) - 1;
  static constexpr int32_t kNumberMask = (1 << kBits) - 1;
  static constexpr int32_t kSpacing =
      32 / static_cast<int32_t>(kStates);  // of the ways of all states in one dword
  static_assert(kSpacing >= static_cast<int32_t>(kBits));

  static constexpr int32_t kClosed = 1 << 29;  // above the cost of any path: 256 * 3 * 127^2 * 2^4 < 2^28

  // level^2 - 2 * level * y, times 2^bits.
  static constexpr std::array<LevelCost, kTrellisLevels> kCosts = [] {
    std::array<LevelCost, kTrellisLevels> costs{};
    for (uint32_t i = 0; i < kTrellisLevels; ++i) costs[i] = level_cost(kTrellis.levels[i], kBits);
    return costs;
  }();

  // targets: of sixteen lanes, [quads] dwords of four signed bytes, `lanes` dwords apart. codes and levels
  // come out in the same way; they may not overlap.
  void run(const int32_t* targets, uint32_t quads, uint32_t lanes, int32_t* codes, int32_t* levels) {
    const Ints seam = find_seam(targets, quads, lanes);
    for (uint32_t s = 0; s < kStates; ++s) {
      const Ints open = splat(static_cast<int32_t>(s) & kHistoryMask);
      paths_[0][s] = select(seam == splat(static_cast<int32_t>(s)), open, open + splat(kClosed));
    }
    for (uint32_t i = 0; i < 4; ++i) advance_over(targets, lanes, i, 0, quads, ways_ + size_t{i} * quads);
    follow(seam, quads, lanes, codes, levels);
  }

 private:
  // The cost of the best way into a window from wherever its state before was reached at `before`.
  template <uint32_t kInto>
  HWY_INLINE static Ints enter(Ints target, const Ints (&paths)[kStates]) {
    constexpr uint32_t kBefore = kInto & (kStates - 1);
    if constexpr (kRest == 0) {
      // Paths hold the low bits of the way's number; what the state does not tell of it is added.
      constexpr auto kMore = static_cast<int32_t>(kInto & ~(kStates - 1)) & kHistoryMask;
      const Ints before = kMore == 0 ? paths[kBefore] : paths[kBefore] + splat(kMore);
      return add_cost<kBits>(before, target, kCosts[kInto]);
    } else {
      Ints best = add_cost<kBits>(splat(0), target, kCosts[kInto]);
      for_fields<(1U << kRest) - 1>([&](auto i) __attribute__((always_inline)) {
        constexpr uint32_t kChoice = i() + 1;
        const Ints number = splat(static_cast<int32_t>(kChoice << kHistory));
        best = min(best, add_cost<kBits>(number, target, kCosts[kInto | kChoice << kWindow]));
      });
      return paths[kBefore] + best;
    }
  }

  // One element further. Returns the ways into all states.
  HWY_INLINE static Ints advance(Ints target, const Ints (&paths)[kStates], Ints (&next)[kStates]) {
    Ints numbers = splat(0);
    for_fields<kStates>([&](auto state) __attribute__((always_inline)) {
      Ints best = enter<state() << kHistory>(target, paths);
      for_fields<kHistoryMask>([&](auto i) __attribute__((always_inline)) {
        best = min(best, enter<(state() << kHistory) + i() + 1>(target, paths));
      });
      numbers = numbers | shift_left(best & splat(kNumberMask), static_cast<int>(state()) * kSpacing);
      constexpr int32_t kLowBits = static_cast<int32_t>(state()) & kHistoryMask;
      next[state()] = (best & splat(~kNumberMask)) | splat(kLowBits);
    });
    return numbers;
  }

  // Over quads first .. first + count - 1 of one byte position; an even number of them.
  void advance_over(const int32_t* targets, uint32_t lanes, uint32_t byte, uint32_t first, uint32_t count,
                    Ints* ways) {
    for (uint32_t k = 0; k < count; k += 2) {
      for_fields<2>([&](auto odd) __attribute__((always_inline)) {
        const Ints four = load(targets + size_t{first + k + odd()} * lanes);
        const Ints y = shift_right(shift_left(four, static_cast<int>(24 - 8 * byte)), 24);
        ways[k + odd()] = advance(target_of<kBits>(y), paths_[odd()], paths_[1 - odd()]);
      });
    }
  }

  // A step back from `state`, by the number of the way into it.
  struct Step {
    Ints window;
    Ints rest;
    HWY_INLINE Step(Ints ways, Ints state) {
      const Ints number = shift_right_each(ways, state * splat(kSpacing)) & splat(kNumberMask);
      window = shift_left(state, kHistory) | (number & splat(kHistoryMask));
      rest = shift_right(number, kHistory);
    }
    HWY_INLINE Ints state_before() const { return window & splat(static_cast<int32_t>(kStates - 1)); }
  };

  // The state in which the ring is closed: that of the cheapest path over its end and its beginning.
  Ints find_seam(const int32_t* targets, uint32_t quads, uint32_t lanes) {
    for (uint32_t s = 0; s < kStates; ++s) paths_[0][s] = splat(static_cast<int32_t>(s) & kHistoryMask);
    advance_over(targets, lanes, 3, quads - kSeamReach, kSeamReach, ways_);
    advance_over(targets, lanes, 0, 0, kSeamReach, ways_ + kSeamReach);
    Ints state = splat(0);
    Ints least = paths_[0][0] & splat(~kNumberMask);
    for (uint32_t s = 1; s < kStates; ++s) {
      const Ints cost = paths_[0][s] & splat(~kNumberMask);
      state = select(cost < least, splat(static_cast<int32_t>(s)), state);
      least = min(cost, least);
    }
    for (uint32_t k = 2 * kSeamReach; k-- > kSeamReach;) state = Step(ways_[k], state).state_before();
    return state;
  }

  // Back along the paths that end in `state`.
  void follow(Ints state, uint32_t quads, uint32_t lanes, int32_t* codes, int32_t* levels) const {
    const LevelLookup lookup(kTrellis.levels);
    for (uint32_t i = 4; i-- > 0;) {
      for (uint32_t quad = quads; quad-- > 0;) {
        const Step step(ways_[i * quads + quad], state);
        const Ints code = shift_left(shift_right(step.window, kWindow - kHistory), kRest) | step.rest;
        const Ints level = lookup.of(step.window | shift_left(step.rest, kWindow)) & splat(0xFF);
        const size_t at = size_t{quad} * lanes;
        const auto byte = static_cast<int>(8 * i);
        store(i == 3 ? shift_left(code, byte) : load(codes + at) | shift_left(code, byte), codes + at);
        store(i == 3 ? shift_left(level, byte) : load(levels + at) | shift_left(level, byte), levels + at);
        state = step.state_before();
      }
    }
  }

  Ints ways_[kMaxDim];  // [place], of all states
  Ints paths_[2][kStates];
};

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
