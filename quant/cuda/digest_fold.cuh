// The digest of a section's keys by one block: quant/digest.cc's make_digest (built with --fmad=false).
#pragma once

#include "quant/cuda/numbers.cuh"
#include "quant/digest.h"

namespace quire::cuda {

template <typename T>
__device__ __forceinline__ T squared(T x, T y) {
  return x * x + y * y;
}

// quant/digest.h's digest_grid_for.
__device__ __forceinline__ float grid_for(float longest, int exponent) {
  return fmaxf(kSmallestDigestGrid, longest * kDigestStep * power_of_two(exponent));
}

// One pair of channels in a block of tokens. keys: of the block's first token, the pair's first channel.
struct DigestPair {
  const float* keys;
  uint32_t dim;

  __device__ __forceinline__ float first(uint32_t t) const { return keys[size_t{t} * dim]; }
  __device__ __forceinline__ float second(uint32_t t) const { return keys[size_t{t} * dim + dim / 2]; }

  __device__ __forceinline__ float largest() const {
    float out = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
      out = fmaxf(out, fmaxf(fabsf(first(t)), fabsf(second(t))));
    }
    return out;
  }

  __device__ __forceinline__ float longest_squared(float down) const {
    float out = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
      out = fmaxf(out, squared(first(t) * down, second(t) * down));
    }
    return out;
  }

  // mean: where the first channel's goes.
  __device__ __forceinline__ void fold(float steps, uint8_t* mean, uint8_t* radius) const {
    float x = 0;
    float y = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
      x += first(t) * steps;
      y += second(t) * steps;
    }
    x = rintf(x * kDigestMeanShare);
    y = rintf(y * kDigestMeanShare);
    float farthest = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
      farthest = fmaxf(farthest, squared(first(t) * steps - x, second(t) * steps - y));
    }
    mean[0] = static_cast<uint8_t>(static_cast<int>(x));
    mean[dim / 2] = static_cast<uint8_t>(static_cast<int>(y));
    *radius = static_cast<uint8_t>(ceilf(__fsqrt_rn(farthest) + kDigestRounding));
  }
};

// keys: [shape.tokens][shape.dim] in global memory. scratch: [32] in shared memory. The block has at least 32
// threads; all of them take part.
__device__ __forceinline__ void fold_digest(const float* keys, SectionShape shape, uint8_t* digest,
                                            float* scratch) {
  const uint32_t pairs = shape.dim / 2;
  const uint32_t all = digest_blocks(shape) * pairs;
  const auto pair_of = [&](uint32_t i) {
    return DigestPair{keys + size_t{i / pairs} * kDigestBlockTokens * shape.dim + i % pairs, shape.dim};
  };
  float largest = 0;
  for (uint32_t i = threadIdx.x; i < all; i += blockDim.x) largest = fmaxf(largest, pair_of(i).largest());
  const int exponent = device_section_exponent(block_max(largest, scratch));
  const float down = power_of_two(-exponent);
  float longest = 0;
  for (uint32_t i = threadIdx.x; i < all; i += blockDim.x) {
    longest = fmaxf(longest, pair_of(i).longest_squared(down));
  }
  const float grid = grid_for(__fsqrt_rn(block_max(longest, scratch)), exponent);
  const float steps = __fdiv_rn(1.0F, grid);
  for (uint32_t i = threadIdx.x; i < all; i += blockDim.x) {
    uint8_t* block = digest + sizeof(float) + (i / pairs) * digest_block_bytes(shape.dim);
    pair_of(i).fold(steps, block + i % pairs, block + shape.dim + i % pairs);
  }
  if (threadIdx.x == 0) store_as<float>(digest, grid);
}

}  // namespace quire::cuda
