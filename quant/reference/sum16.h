// Sums over a row in the order of FORMATS.md's sum16. Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace quire::reference {

inline constexpr uint32_t kMaxDim = 256;
using Row = std::array<float, kMaxDim>;

// Sixteen partial sums, then a tree: the order that 16 lanes add in, written down for every machine.
inline float sum16(const Row& row, uint32_t dim) {
  std::array<float, 16> partial{};
  std::copy_n(row.begin(), 16, partial.begin());
  for (uint32_t i = 16; i < dim; ++i) partial[i % 16] += row[i];
  for (uint32_t half = 8; half >= 1; half /= 2) {
    for (uint32_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

}  // namespace quire::reference
