// The levels of trellis codecs where device code can index them.
#pragma once

#include "quant/cuda/gpu.h"
#include "quant/trellis.h"

namespace quire::cuda {

struct TrellisTables {
  int8_t levels[4][kTrellisLevels];  // [bits - 1]
};
constexpr TrellisTables trellis_tables() {
  TrellisTables tables{};
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    for (uint32_t i = 0; i < kTrellisLevels; ++i) tables.levels[bits - 1][i] = trellis_of(bits).levels[i];
  }
  return tables;
}
static __constant__ const TrellisTables kTrellisTables = trellis_tables();

// A trellis without its levels, by bits: what device code may ask for as it runs.
struct TrellisShape {
  uint32_t history_bits;
  uint32_t window_bits;
  uint32_t rest_bits;
};
__device__ __forceinline__ TrellisShape trellis_shape(uint32_t bits) {
  if (bits == 4) return {4, 6, 0};
  if (bits == 3) return {1, 4, 2};
  return {bits, 6, 0};
}

}  // namespace quire::cuda
