// Arithmetic of FORMATS.md on the device: halves, logarithmic steps, reductions of a block.
#pragma once

#include "quant/cuda/gpu.h"
#include "quant/half.h"
#include "quant/levels.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

namespace quire::cuda {

// The library's tables, where device code can index them.
struct StepTables {
  float mantissa[kStepsPerOctave];
  float boundary[kStepsPerOctave];
};
constexpr StepTables step_tables() {
  StepTables tables{};
  for (int i = 0; i < kStepsPerOctave; ++i) {
    tables.mantissa[i] = kStepMantissa[static_cast<size_t>(i)];
    tables.boundary[i] = kStepBoundary[static_cast<size_t>(i)];
  }
  return tables;
}
static __constant__ const StepTables kStepTables = step_tables();

// steps.h's functions over those tables.
__device__ inline float device_step_value(int n) {
  const int octave = n >> 4;
  if (octave < -126) return 0.0F;
  return __fmul_rn(kStepTables.mantissa[static_cast<uint32_t>(n) % kStepsPerOctave], power_of_two(octave));
}
__device__ inline int device_round_step(float value) {
  const StepParts parts = step_parts(value);
  int n = parts.octave * kStepsPerOctave;
  for (const float boundary : kStepTables.boundary) n += parts.mantissa >= boundary ? 1 : 0;
  return n;
}
__device__ inline int device_ceil_step(float value) {
  const StepParts parts = step_parts(value);
  int n = parts.octave * kStepsPerOctave;
  for (const float mantissa : kStepTables.mantissa) n += mantissa < parts.mantissa ? 1 : 0;
  return n;
}

// section_exponent.h's function. That one clamps through references to constants of the host, which nvcc
// takes for undefined and makes a trap.
__device__ inline int device_section_exponent(float largest) {
  if (largest == 0.0F) return 0;
  const int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
  return max(kMinSectionExponent, min(exponent, kMaxSectionExponent));
}

// Codes to levels and back, by bits.
struct LevelTables {
  int8_t levels[3][16];  // [4 - bits]
  float thresholds[3][15];
  float unit[3];
};
constexpr LevelTables level_tables() {
  LevelTables tables{};
  for (uint32_t bits = 2; bits <= 4; ++bits) {
    const LevelTable table = level_table(bits);
    for (size_t i = 0; i < table.levels.size(); ++i) tables.levels[4 - bits][i] = table.levels[i];
    for (size_t i = 0; i < table.thresholds.size(); ++i) tables.thresholds[4 - bits][i] = table.thresholds[i];
    tables.unit[4 - bits] = table.unit;
  }
  return tables;
}
static __constant__ const LevelTables kLevelTables = level_tables();

__device__ __forceinline__ uint32_t table_of(uint32_t bits) { return bits == 4 ? 0U : bits == 3 ? 1U : 2U; }

__device__ inline uint32_t level_code(uint32_t bits, float y) {
  uint32_t code = 0;
  for (uint32_t i = 0; i + 1 < 1U << bits; ++i)
    code += kLevelTables.thresholds[table_of(bits)][i] < y ? 1U : 0U;
  return code;
}

__device__ __forceinline__ float half_bits_to_float(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
// A half as stored: a zero has no sign.
__device__ __forceinline__ uint32_t unsigned_zero_half(float value) {
  const uint32_t bits = __half_as_ushort(__float2half_rn(value));
  return bits == 0x8000U ? 0U : bits;
}

__device__ __forceinline__ float bf16_bits_to_float(uint32_t bits) { return __uint_as_float(bits << 16); }

// Reduces over the block; every thread gets the result. scratch: [32] in shared memory, free again
// afterwards.
template <typename T, typename Op>
__device__ T block_reduce(T value, T* scratch, Op op) {
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kAllLanes, value, offset));
  const unsigned warp = threadIdx.x / kWarpLanes;
  if (threadIdx.x % kWarpLanes == 0) scratch[warp] = value;
  __syncthreads();
  T result = scratch[0];
  for (unsigned w = 1; w < blockDim.x / kWarpLanes; ++w) result = op(result, scratch[w]);
  __syncthreads();
  return result;
}

// The largest over the block, which has at most 1024 threads; every thread gets it. scratch: [32] in shared
// memory, free again afterwards.
__device__ __forceinline__ int block_max(int value, int* scratch) {
  value = __reduce_max_sync(kAllLanes, value);
  const unsigned lane = threadIdx.x % kWarpLanes;
  if (lane == 0) scratch[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  value = __reduce_max_sync(kAllLanes, scratch[lane < blockDim.x / kWarpLanes ? lane : 0]);
  __syncthreads();
  return value;
}
// Of values that are not negative: their bits are in their order.
__device__ __forceinline__ float block_max(float value, float* scratch) {
  return __int_as_float(block_max(__float_as_int(value), reinterpret_cast<int*>(scratch)));
}

struct SumOf {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct MaxOf {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

}  // namespace quire::cuda
