// A small generator of random numbers with a defined sequence, so that a seed gives the same text anywhere:
// xoshiro256** (Blackman and Vigna), its state filled from the seed by splitmix64.
// Thread safety: one thread.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace quire::qwen3 {

class Random {
 public:
  explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) word = splitmix(seed);
  }

  uint64_t next() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // In [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  static uint64_t splitmix(uint64_t& seed) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }

  std::array<uint64_t, 4> state_{};
};

}  // namespace quire::qwen3
