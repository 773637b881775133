// What the seeded drivers share: how many seeds to run, randomness, and damage to bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire::testing {

// QUIRE_TEST_SEEDS, or `smoke`.
uint64_t seed_count(uint64_t smoke);

// splitmix64: one seed, one sequence, on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}
  uint64_t next();
  uint64_t below(uint64_t n) { return next() % n; }
  bool chance(uint64_t in) { return below(in) == 0; }

 private:
  uint64_t state_;
};

// One to four changes: a byte, a bit, a cut, a copied stretch, a number made large.
std::vector<uint8_t> damage(std::vector<uint8_t> bytes, Random& random);

// For tests/run.sh to add up.
void report_counts(uint64_t cases, uint64_t seeds);

}  // namespace quire::testing
