// Queries of a staged kernel as operands of matrix instructions.
//
// Keys in rotated space leave queries as they are: their integers are the same for all sections, and the
// warps of a block share them. Scales per channel are multiplied into the queries, which each warp makes into
// operands anew for every section, from floats in shared memory.
#pragma once

#include "quant/cuda/key_scores.cuh"
#include "quant/cuda/staged_product.cuh"

namespace quire::cuda {

// Of a row's weights in shared memory: four floats lie between rows, so that those that are written and read
// at once are on different banks.
inline constexpr uint32_t kWeightStride = kStagedTokens + 4;

template <typename Form, int kTiles>
struct StagedQueries {
  static constexpr bool kFixed = has_means(Form::kKey);
  // While the warp is at values their memory takes the weights that outliers are multiplied with.
  static constexpr uint32_t kOperands = kTiles * QueryOperands::words_of_warp(Form::kBlocks);
  static constexpr uint32_t kWeights = has_outliers(Form::kValue) ? kTiles * 8 * kWeightStride : 0;
  static constexpr uint32_t kWordsOfWarp = kOperands > kWeights ? kOperands : kWeights;
  static_assert(kWeights == 0 || !kFixed);
  static constexpr uint32_t kWords = (kFixed ? 1 : kStagedWarps) * kWordsOfWarp;
  // Four floats lie between rows: those that are read at once are on different banks.
  static constexpr uint32_t kRowStride = Form::kDim + 4;
  static constexpr uint32_t kFloats = kFixed ? 0 : kTiles * 8 * kRowStride;

  QueryOperands tiles[kTiles];
  float sum[kTiles];  // of the integers, where these are fixed
  const float* rows;  // [kTiles * 8][kRowStride] where they are not
  float* weights;     // [kTiles * 8][kWeightStride]

  __device__ __forceinline__ const float* row(int tile, uint32_t g) const {
    return rows + (8 * static_cast<uint32_t>(tile) + g) * kRowStride;
  }

  __device__ __forceinline__ void load(int b, uint32_t (&a)[kTiles][4]) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) tiles[tile].load(b, a[tile]);
  }
};

// words: [kWords], floats: [kFloats] in shared memory; what all warps share is there after a barrier.
template <typename Form, int kTiles>
__device__ __forceinline__ void fix_queries(const WarpContext& w, uint32_t warp, uint32_t* words,
                                            float* floats, StagedQueries<Form, kTiles>& queries) {
  using Queries = StagedQueries<Form, kTiles>;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    QueryOperands& query = queries.tiles[tile];
    uint32_t* mine = words + (Queries::kFixed ? 0 : warp * Queries::kWordsOfWarp) +
                     tile * QueryOperands::words_of_warp(Form::kBlocks) + 4 * (threadIdx.x % kWarpLanes);
    query.words = Queries::kFixed && warp > 0 ? nullptr : mine;
    if constexpr (Queries::kFixed) {
      queries.sum[tile] = static_cast<float>(quantise_query<true, Form::kBlocks>(w, tile, query));
      query.words = mine;
    }
  }
  if constexpr (!Queries::kFixed) {
    queries.weights = reinterpret_cast<float*>(words + warp * Queries::kWordsOfWarp);
    queries.rows = floats;
    for (uint32_t i = threadIdx.x * 4; i < kTiles * 8 * Form::kDim; i += blockDim.x * 4) {
      const uint32_t row = i / Form::kDim;
      const uint32_t channel = i % Form::kDim;
      store_as<float4>(floats + row * Queries::kRowStride + channel,
                       load_as<float4>(w.q + size_t{min(row, w.last_row)} * Form::kDim + channel));
    }
  }
}

// What a stored scale per channel or token is worth.
template <CodecId kId>
constexpr float staged_unit() {
  return is_nonuniform(kId) ? kNuqLevelUnit : 1.0F;
}

// score = 2^e * (unit * scale * (sum - centre * sum of integers) + q . mid), channel scales folded into q.
// 2^e is left to those who add outliers. row: a query's floats. meta: of keys.
template <typename Form>
__device__ __forceinline__ void fold_channel_scales(const float* row, const uint8_t* meta, uint32_t param,
                                                    uint32_t i, QueryOperands& query) {
  constexpr CodecId kKey = Form::kKey;
  constexpr int kBlocks = Form::kBlocks;
  // The products stay in registers until the largest is known, where codes are not in planes or pairs, which
  // take more of them.
  constexpr bool kKept = bits_of(kKey) >= 4 || kBlocks <= 2;
  float x[kBlocks][8];
  float largest = 0.0F;
  float mid_dot = 0.0F;
  const auto multiply = [&](int b, auto dot) {
    const uint32_t channel = 32 * static_cast<uint32_t>(b) + 8 * i;
    float scale[8];
    load_eight(row + channel, x[b]);
    load_eight_halves(meta + 2 * channel, scale);
    if constexpr (dot) {
      float mid[8];
      load_eight_halves(meta + 2 * (Form::kDim + channel), mid);
#pragma unroll
      for (int k = 0; k < 8; ++k) mid_dot += x[b][k] * mid[k];
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) x[b][k] *= scale[k];
  };
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    multiply(b, std::true_type{});
#pragma unroll
    for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fabsf(x[b][k]));
  }
  const float top = fmaxf(quad_max(largest), 1e-30F);
  const float inverse = kQueryTop * reciprocal_approx(top);
  uint32_t sum = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if constexpr (!kKept) {
      hold_back_loads();
      multiply(b, std::false_type{});
    }
    uint32_t a[4];
    pack_query<has_levels(kKey)>(x[b], inverse, sum, a);
    query.keep(b, a);
  }
  constexpr float kShort = has_levels(kKey) ? staged_centre<kKey>() : key_centre(bits_of(kKey));
  const float up = has_outliers(kKey) ? 1.0F : power_of_two(static_cast<int32_t>(param));
  // Above 0 whatever is multiplied: what is masked stays so.
  query.scale = fmaxf(top * (staged_unit<kKey>() / kQueryTop) * up, 1e-37F);
  query.offset = quad_sum(mid_dot) * up;
  if constexpr (kShort != 0.0F) {
    const int integers = quad_sum(static_cast<int>(sum - 8U * kBlocks * kQueryExcess));
    query.offset -= query.scale * (kShort * static_cast<float>(integers));
  }
}

}  // namespace quire::cuda
