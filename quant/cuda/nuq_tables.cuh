// The levels of non-uniform codecs in device code: the layer's, or the default ones.
#pragma once

#include "quant/cuda/launch.h"
#include "quant/cuda/numbers.cuh"
#include "quant/nuq_levels.h"

namespace quire::cuda {

struct NuqTables {
  int8_t levels[2][3][16];  // [keys, values][4 - bits]
};
constexpr NuqTables nuq_tables() {
  NuqTables tables{};
  for (uint32_t bits = 2; bits <= 4; ++bits) {
    for (size_t i = 0; i < size_t{1} << bits; ++i) {
      tables.levels[0][4 - bits][i] = nuq_levels(bits, Side::kKey, nullptr)[i];
      tables.levels[1][4 - bits][i] = nuq_levels(bits, Side::kValue, nullptr)[i];
    }
  }
  return tables;
}
static __constant__ const NuqTables kNuqTables = nuq_tables();

// Level `i` of one side of a format whose codec there is non-uniform.
__device__ __forceinline__ int8_t nuq_level(const SectionFormat& format, Side side, uint32_t i) {
  const bool key = side == Side::kKey;
  const int8_t* of_layer = key ? format.key_levels : format.value_levels;
  if (of_layer != nullptr) return of_layer[i];
  return kNuqTables.levels[key ? 0 : 1][table_of((key ? format.key : format.value).bits)][i];
}

}  // namespace quire::cuda
