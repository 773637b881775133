// The digest of a section's keys by one block: quant/digest.cc's make_digest (built with --fmad=false).
#pragma once

#include "quant/cuda/numbers.cuh"
#include "quant/digest.h"

namespace quire::cuda {

// The next float above x, as quant/digest.cc rounds bounds.
__device__ __forceinline__ float round_up(double x) {
  constexpr float kLargest = 3.40282347e+38F;
  if (x >= static_cast<double>(kLargest)) return kLargest;
  return nextafterf(static_cast<float>(fmax(x, -static_cast<double>(kLargest))), kLargest);
}

__device__ __forceinline__ double squared(double x, double y) { return x * x + y * y; }

// One pair of channels in a block of tokens. keys: of the block's first token, the pair's first channel.
struct DigestPair {
  const float* keys;
  uint32_t dim;

  __device__ __forceinline__ double first(uint32_t t) const {
    return static_cast<double>(keys[size_t{t} * dim]);
  }
  __device__ __forceinline__ double second(uint32_t t) const {
    return static_cast<double>(keys[size_t{t} * dim + dim / 2]);
  }

  __device__ __forceinline__ double largest() const {
    double out = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) out = fmax(out, squared(first(t), second(t)));
    return out;
  }

  // mean: where the first channel's goes.
  __device__ __forceinline__ void fold(double steps, uint8_t* mean, uint8_t* radius) const {
    double x = 0;
    double y = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
      x += first(t);
      y += second(t);
    }
    x = rint(x / kDigestBlockTokens * steps);
    y = rint(y / kDigestBlockTokens * steps);
    double farthest = 0;
    for (uint32_t t = 0; t < kDigestBlockTokens; ++t) {
      farthest = fmax(farthest, squared(first(t) * steps - x, second(t) * steps - y));
    }
    mean[0] = static_cast<uint8_t>(static_cast<int>(x));
    mean[dim / 2] = static_cast<uint8_t>(static_cast<int>(y));
    *radius = static_cast<uint8_t>(steps == 0.0 ? 0 : static_cast<int>(ceil(sqrt(farthest) + 1e-9)));
  }
};

// keys: [shape.tokens][shape.dim] in global memory. scratch: [32] in shared memory. The block has at least 32
// threads; all of them take part.
__device__ __forceinline__ void fold_digest(const float* keys, SectionShape shape, uint8_t* digest,
                                            double* scratch) {
  constexpr double kMeanSteps = 127;
  const uint32_t pairs = shape.dim / 2;
  const uint32_t all = digest_blocks(shape) * pairs;
  const auto pair_of = [&](uint32_t i) {
    return DigestPair{keys + size_t{i / pairs} * kDigestBlockTokens * shape.dim + i % pairs, shape.dim};
  };
  double largest = 0;
  for (uint32_t i = threadIdx.x; i < all; i += blockDim.x) largest = fmax(largest, pair_of(i).largest());
  largest = sqrt(block_reduce(largest, scratch, MaxOf{}));
  const float grid = largest == 0.0 ? 0.0F : round_up(largest / kMeanSteps);
  const double steps = grid == 0.0F ? 0.0 : 1.0 / static_cast<double>(grid);
  for (uint32_t i = threadIdx.x; i < all; i += blockDim.x) {
    uint8_t* block = digest + sizeof(float) + (i / pairs) * digest_block_bytes(shape.dim);
    pair_of(i).fold(steps, block + i % pairs, block + shape.dim + i % pairs);
  }
  if (threadIdx.x == 0) store_as<float>(digest, grid);
}

}  // namespace quire::cuda
