// The code of a value by one look-up: thresholds are multiples of 1/2, so a value's code is that of twice the
// value, rounded up.
#pragma once

#include "quant/cuda/numbers.cuh"

namespace quire::cuda {

// The largest magnitude, doubled, that a value of a token can have: sqrt(dim) times the deviation of the
// levels.
constexpr int largest_twice(uint32_t bits, uint32_t dim) {
  int root = 1;
  while (root * root < static_cast<int>(dim)) ++root;
  return (2 * root * (static_cast<int>(level_table(bits).unit) + 1) + 15) / 16 * 16;
}

inline constexpr uint32_t kSearchedDim = 128;  // the largest
inline constexpr int kSearched = largest_twice(2, kSearchedDim);

// Codes, times four, of the integers from -kSearched to kSearched - 1.
struct SearchTables {
  uint8_t fours[3][2 * kSearched];  // [4 - bits]
};
constexpr SearchTables search_tables() {
  SearchTables tables{};
  for (uint32_t bits = 2; bits <= 4; ++bits) {
    uint8_t code = 0;
    for (int twice = -kSearched; twice < kSearched; ++twice) {
      const auto value = static_cast<float>(twice) * 0.5F;
      const LevelTable table = level_table(bits);
      while (code < table.thresholds.size() && table.thresholds[code] < value) ++code;
      tables.fours[4 - bits][twice + kSearched] = static_cast<uint8_t>(4 * code);
    }
  }
  return tables;
}
alignas(16) static __device__ const SearchTables kSearchTables = search_tables();

template <uint32_t kBits, uint32_t kDim>
struct LevelSearch {
  static constexpr int kLargest = largest_twice(kBits, kDim);
  static constexpr uint32_t kBytes = 2 * kLargest;
  static_assert(kDim <= kSearchedDim && kLargest <= kSearched && kLargest % 16 == 0 && kSearched % 16 == 0);

  // table: [kBytes] in shared memory. Every thread of the block takes part.
  __device__ __forceinline__ static void fill(uint8_t* table) {
    const uint8_t* from = kSearchTables.fours[4 - kBits] + (kSearched - kLargest);
    for (uint32_t at = 16 * threadIdx.x; at < kBytes; at += 16 * blockDim.x) {
      store_as<uint4>(table + at, load_as<uint4>(from + at));
    }
  }
  // Four times the code of y.
  __device__ __forceinline__ static uint32_t find(const uint8_t* table, float y) {
    return table[ceil_twice(y) + kLargest];
  }
};

}  // namespace quire::cuda
