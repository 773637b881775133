// What the outliers of nuq codecs add to scores and outputs. Each lane (a token of keys, a channel of values)
// has one, which belongs to one group; the other factor of its product, a query's element or a token's
// weight, is looked up by the group in rows of shared memory.
#pragma once

#include "quant/cuda/staged_query.cuh"
#include "quant/cuda/warp_rows.cuh"

namespace quire::cuda {

// Rows of floats in shared memory, of which a thread looks up elements. In bytes: the compiler makes one
// instruction of such an address, and three of an element's in an array of arrays.
template <uint32_t kStride>
__device__ __forceinline__ const uint8_t* row_bytes(const float* rows, int tile, uint32_t g) {
  return reinterpret_cast<const uint8_t*>(rows) + (8U * static_cast<uint32_t>(tile) + g) * (4 * kStride);
}

// Of eight lanes in a row.
template <uint32_t kGroups>
struct OutlierLanes {
  uint32_t group[8];
  float rest[8];

  __device__ __forceinline__ explicit OutlierLanes(const uint8_t* stored) {
    const auto words = load_as<uint4>(stored);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (uint32_t k = 0; k < 8; ++k) {
      const uint32_t pair = pairs[k / 2];
      const uint32_t rests = pair & 0xFF00FF00U;
      group[k] = min(permute_bytes(pair, 0, k % 2 == 0 ? 0x4440U : 0x4442U), kGroups - 1);
      rest[k] = half_bits_to_float(k % 2 == 0 ? rests & 0xFFFFU : rests >> 16);
    }
  }
};

// Adds outliers to products, which are then to be scaled by 2^e alone. meta: of keys.
template <typename Form, int kTiles>
__device__ __forceinline__ void score_outliers(Lane at, const uint8_t* meta, uint32_t param,
                                               StagedQueries<Form, kTiles>& queries,
                                               float (&products)[kTiles][kTokensOfThread]) {
  const float up = power_of_two(static_cast<int32_t>(param));
  const uint8_t* outliers = meta + 4 * Form::kDim + 16 * at.i;
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    const OutlierLanes<Form::kDim> lanes(outliers + 64 * group);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const QueryOperands& query = queries.tiles[tile];
      const uint8_t* row = row_bytes<StagedQueries<Form, kTiles>::kRowStride>(queries.rows, tile, at.g);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        float& product = products[tile][8 * group + k];
        product = product * query.scale + query.offset;
        product += load_as<float>(row + 4 * lanes.group[k]) * lanes.rest[k];
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    queries.tiles[tile].scale = up;
    queries.tiles[tile].offset = 0.0F;
  }
}

// The weights of a section's tokens by rows, times 2^e of its values: there for the whole warp after its next
// barrier.
template <int kTiles>
__device__ __forceinline__ void keep_weights(Lane at, uint32_t param,
                                             const float (&weights)[kTiles][kTokensOfThread], float* kept) {
  const float up = power_of_two(static_cast<int32_t>(param));
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int k = 0; k < kTokensOfThread; k += 4) {
      const float(&four)[kTokensOfThread] = weights[tile];
      store_as<float4>(kept + (8 * tile + at.g) * kWeightStride + 32 * (k / 8) + 8 * at.i + k % 8,
                       make_float4(four[k] * up, four[k + 1] * up, four[k + 2] * up, four[k + 3] * up));
    }
  }
}

// Outliers of block b of channels, to outputs. meta: of values. kept: what keep_weights left.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void add_outliers(Lane at, const uint8_t* meta, int b, const float* kept,
                                             RowState<kBlocks> (&rows)[kTiles]) {
  const OutlierLanes<kStagedTokens> lanes(meta + 4 * kStagedTokens + 64 * b + 16 * at.i);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint8_t* row = row_bytes<kWeightStride>(kept, tile, at.g);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      rows[tile].o[b][k] += load_as<float>(row + 4 * lanes.group[k]) * lanes.rest[k];
    }
  }
}

}  // namespace quire::cuda
