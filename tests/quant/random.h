// Test inputs that are the same on every run.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <vector>

namespace quire::test {

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    state_ += 0x9E3779B97F4A7C15U;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(bits() % n); }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Box and Muller.
  float normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return static_cast<float>(radius * std::cos(2 * std::numbers::pi * uniform()));
  }
  // Any finite bf16 value, subnormals included.
  float finite_bf16() {
    const auto pattern = static_cast<uint32_t>(bits() >> 48);
    const float value = std::bit_cast<float>(pattern << 16);
    return std::isfinite(value) ? value : 0.0F;
  }

 private:
  uint64_t state_;
};

inline std::vector<float> normal_values(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = random.normal();
  return values;
}

}  // namespace quire::test
