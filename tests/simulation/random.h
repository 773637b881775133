// Randomness of a simulation: everything is drawn from one seed, by one thread. std::mt19937_64 is specified
// to the bit; its distributions are not, so none is used.
#pragma once

#include <cstdint>
#include <random>

namespace quire::testing {

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : engine_(seed) {}
  uint64_t next() { return engine_(); }
  // [0, n), n > 0
  uint64_t below(uint64_t n) { return engine_() % n; }
  // [low, high]
  uint64_t between(uint64_t low, uint64_t high) { return low + below(high - low + 1); }
  bool chance(uint32_t per_thousand) { return below(1000) < per_thousand; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace quire::testing
