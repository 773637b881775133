// The code of a value of a non-uniform codec and its level by one look-up: thresholds are multiples of 1/2,
// so a value's code is that of twice the value, rounded up. Levels lie within -127 .. 127.
#pragma once

#include "quant/cuda/nuq_tables.cuh"

namespace quire::cuda {

inline constexpr uint32_t kNuqEntries = 513;  // of what ceil_twice_clamped gives

// In shared memory.
struct NuqSearch {
  uint16_t entries[(kNuqEntries + 7) / 8 * 8];  // the code in the lower byte, its level in the upper one
  int codes[16];  // an entry, and twice the threshold above it in the upper half: beyond all values of the
                  // last

  // Every thread of the block, which has at least 16, takes part. Look-ups need a barrier more.
  __device__ __forceinline__ void fill(const SectionFormat& format, Side side) {
    constexpr int kBeyond = 0x7FFF;
    const uint32_t last = (1U << (side == Side::kKey ? format.key : format.value).bits) - 1;
    if (threadIdx.x < 16) {
      const uint32_t code = min(threadIdx.x, last);
      const int level = nuq_level(format, side, code);
      const int edge = code < last ? level + nuq_level(format, side, code + 1) : kBeyond;
      codes[threadIdx.x] = edge << 16 | (level & 0xFF) << 8 | static_cast<int>(code);
    }
    __syncthreads();
    // A thread searches for the first of some entries; the others are that or follow from edge to edge.
    constexpr uint32_t kAtOnce = 8;
    constexpr uint32_t kLast = kNuqEntries - 1;
    for (uint32_t first = kAtOnce * threadIdx.x; first < kLast; first += kAtOnce * blockDim.x) {
      const auto value = [&](uint32_t k) { return static_cast<int>(first + k - kLast / 2) * 0x10000; };
      const int* at = codes;
#pragma unroll
      for (uint32_t step = 8; step > 0; step /= 2) at += at[step - 1] < value(0) ? step : 0U;
      int entry[kAtOnce];
#pragma unroll
      for (uint32_t k = 0; k < kAtOnce; ++k) {
        if (k > 0 && *at < value(k)) ++at;  // edges differ
        entry[k] = *at;
      }
      const auto pair = [&](uint32_t k) {
        return __byte_perm(static_cast<uint32_t>(entry[k]), static_cast<uint32_t>(entry[k + 1]), 0x5410U);
      };
      store_as<uint4>(entries + first, make_uint4(pair(0), pair(2), pair(4), pair(6)));
      if (first + kAtOnce == kLast) entries[kLast] = static_cast<uint16_t>(entry[kAtOnce - 1]);
    }
  }

  // Of a value less the midpoint, in level units.
  __device__ __forceinline__ uint32_t find(float y) const { return entries[ceil_twice_clamped(y)]; }
};

}  // namespace quire::cuda
