// From staged sections to the state of rows: scores, weights, values of all 64 tokens of a section at once.
// Loops over a trellis are not unrolled where they need not be: its look-ups are so many instructions that
// they would not stay in the instruction cache.
#pragma once

#include "quant/cuda/decoded.cuh"
#include "quant/cuda/staged_outliers.cuh"
#include "quant/cuda/value_sums.cuh"

namespace quire::cuda {

// The scales of a section's tokens, and of values without means their midpoints, to memory of the warp: each
// is needed by eight threads. scales: [2][64].
template <CodecId kId>
__device__ __forceinline__ void spread_scales(const uint8_t* meta, uint32_t param, float* scales) {
  const uint32_t token = 2 * (threadIdx.x % kWarpLanes);
  if constexpr (is_trellis(kId)) {
    const uint32_t codes = load_as<uint16_t>(meta + token);
    store_as<float2>(scales + token, make_float2(trellis_token_scale(param, codes & 0xFFU),
                                                 trellis_token_scale(param, codes >> 8)));
  } else if constexpr (is_rotated(kId)) {
    const int largest = static_cast<int16_t>(param & 0xFFFFU);
    const uint32_t codes = load_as<uint16_t>(meta + token);
    const auto scale = [&](uint32_t code) {
      const float step =
          exp2_approx(static_cast<float>(largest + static_cast<int>(code) - 255) * (1.0F / kStepsPerOctave));
      return code == 0 ? 0.0F : step;
    };
    store_as<float2>(scales + token, make_float2(scale(codes & 0xFFU), scale(codes >> 8)));
  } else {
    const float up = power_of_two(static_cast<int32_t>(param));
    const auto pair = [&](const uint8_t* halves, float unit) {
      const uint32_t both = load_as<uint32_t>(halves + size_t{2} * token);
      return make_float2(half_bits_to_float(both & 0xFFFFU) * unit, half_bits_to_float(both >> 16) * unit);
    };
    store_as<float2>(scales + token, pair(meta, up * staged_unit<kId>()));
    store_as<float2>(scales + kStagedTokens + token, pair(meta + size_t{2} * kStagedTokens, up));
  }
  __syncwarp();
}
template <CodecId kId>
__device__ __forceinline__ float staged_mean_step(uint32_t param) {
  return step_approx(is_trellis(kId) ? trellis_mean_step(param) : static_cast<int16_t>(param >> 16));
}

// slot: of keys. products: [tile][16], to be scaled and offset as `queries` has it then.
template <typename Form, int kTiles>
__device__ __forceinline__ void score_staged(const WarpContext& w, const uint8_t* slot, uint32_t param,
                                             const LevelWords<Form::kKey>& key_levels, float* scales,
                                             StagedQueries<Form, kTiles>& queries,
                                             float (&products)[kTiles][kTokensOfThread]) {
  constexpr CodecId kKey = Form::kKey;
  const uint8_t* meta = slot + Form::kKeyCodes;
  if constexpr (has_means(kKey)) {
    spread_scales<kKey>(meta, param, scales);
  } else {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      fold_channel_scales<Form>(queries.row(tile, w.at.g), meta, param, w.at.i, queries.tiles[tile]);
    }
  }
  const LevelWords<kKey> levels = fetch_levels(key_levels);
  const StagedArray<kKey, Form::kDim, kStagedTokens> codes(slot, w.at, levels);
  int means[kTiles][4] = {};
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    int sums[kTiles][4][4] = {};
#pragma unroll(is_trellis(kKey) ? 1 : Form::kBlocks)
    for (int b = 0; b < Form::kBlocks; ++b) {
      const auto words = codes.load(static_cast<uint32_t>(b), 32U * static_cast<uint32_t>(group));
      uint32_t a[kTiles][4];
      queries.load(b, a);
      if (!is_trellis(kKey) && b == 0) {
        multiply_staged<kKey, SignedBytes, true>(words, levels, a, w.at.i, sums);
      } else {
        multiply_staged<kKey, SignedBytes, false>(words, levels, a, w.at.i, sums);
      }
      if constexpr (has_means(kKey)) {
        if (group == 0) multiply_means(w, meta + kStagedTokens, b, a, means);
      }
    }
    float token_scales[8];
    if constexpr (has_means(kKey)) load_eight(scales + 32 * group + 8 * w.at.i, token_scales);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const int(&sum)[4] = sums[tile][k % 4];
        float product = static_cast<float>(sum[k / 4] * 256 + sum[2 + k / 4]);
        if constexpr (kKey == CodecId::kRot4) product += queries.sum[tile];
        if constexpr (has_means(kKey)) product *= token_scales[k];
        products[tile][8 * group + k] = product;
      }
    }
  }
  if constexpr (has_means(kKey)) {
    const float mean_step = staged_mean_step<kKey>(param);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      queries.tiles[tile].offset =
          static_cast<float>(means[tile][0] * 256 + means[tile][2]) * (queries.tiles[tile].scale * mean_step);
    }
  }
  if constexpr (has_outliers(kKey)) score_outliers(w.at, meta, param, queries, products);
}

// Tokens of the section below `first` are not seen.
__device__ __forceinline__ void mask_staged(uint32_t i, int first, float (&scores)[kTokensOfThread]) {
#pragma unroll
  for (int k = 0; k < kTokensOfThread; ++k) {
    if (32 * (k / 8) + static_cast<int>(8 * i) + k % 8 < first) scores[k] = -INFINITY;
  }
}

// Products become weights 2^(scale * product + offset - m). scale > 0.
template <int kBlocks>
__device__ __forceinline__ void weigh_staged(float scale, float offset, float (&scores)[kTokensOfThread],
                                             RowState<kBlocks>& row) {
  float largest = scores[0];
#pragma unroll
  for (int k = 1; k < kTokensOfThread; ++k) largest = fmaxf(largest, scores[k]);
  const float m = fmaxf(row.m, quad_max(largest) * scale + offset);
  if (__any_sync(kAllLanes, m > row.m ? 1 : 0) != 0) {
    const float keep = exp2_approx(row.m - m);
    row.m = m;
    row.l *= keep;
    row.mid *= keep;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int k = 0; k < 8; ++k) row.o[b][k] *= keep;
    }
  }
  row.weight = 0.0F;
  const float less = offset - m;
#pragma unroll
  for (int k = 0; k < kTokensOfThread; ++k) {
    scores[k] = exp2_approx(scores[k] * scale + less);
    row.weight += scores[k];
  }
  row.l += row.weight;
}

// The weights of a row's 64 tokens, times the tokens' scales, as integers of 16 bits.
struct WeightOperands {
  uint32_t a[2][4];
  float step;
};
template <CodecId kValue, int kBlocks>
__device__ __forceinline__ WeightOperands quantise_weights(const float* scales, uint32_t i,
                                                           float (&weights)[kTokensOfThread],
                                                           RowState<kBlocks>& row) {
  float largest = 0.0F;
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    float scale[8];
    load_eight(scales + 32 * group + 8 * i, scale);
    if constexpr (!has_means(kValue)) {
      float mid[8];
      load_eight(scales + kStagedTokens + 32 * group + 8 * i, mid);
#pragma unroll
      for (int k = 0; k < 8; ++k) row.mid += weights[8 * group + k] * mid[k];
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      weights[8 * group + k] *= scale[k];
      largest = fmaxf(largest, weights[8 * group + k]);
    }
  }
  const float top = fmaxf(quad_max(largest), 1e-30F);
  const float inverse = kWeightTop * reciprocal_approx(top);
  WeightOperands operands;
  operands.step = top * (1.0F / kWeightTop);
  uint32_t sum = 0;
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    uint32_t v[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      v[k] = rounded_bits(weights[8 * group + k], inverse);
      sum += v[k];
    }
    uint32_t upper[2];
    uint32_t lower[2];
    pack_halves<has_levels(kValue)>(v, upper, lower);
    operands.a[group][0] = upper[0];
    operands.a[group][1] = lower[0];
    operands.a[group][2] = upper[1];
    operands.a[group][3] = lower[1];
  }
  // What the operands are short of is the same for all channels, as midpoints are.
  constexpr int kShort = -staged_centre<kValue>();
  if constexpr (kShort != 0) {
    const int own = static_cast<int>(sum - kTokensOfThread * kRoundingBits);
    row.mid += static_cast<float>(kShort * own) * operands.step;
  }
  return operands;
}

// slot: of values. weights: what weigh_staged left.
template <typename Form, int kTiles>
__device__ __forceinline__ void add_staged(const WarpContext& w, const uint8_t* slot, uint32_t param,
                                           const LevelWords<Form::kValue>& value_levels, float* scales,
                                           const StagedQueries<Form, kTiles>& queries,
                                           float (&weights)[kTiles][kTokensOfThread],
                                           RowState<Form::kBlocks> (&rows)[kTiles]) {
  constexpr CodecId kValue = Form::kValue;
  constexpr int kBlocks = Form::kBlocks;
  const uint8_t* meta = slot + Form::kValueCodes;
  if constexpr (has_outliers(kValue)) keep_weights(w.at, param, weights, queries.weights);
  spread_scales<kValue>(meta, param, scales);
  uint32_t a[2][kTiles][4];
  float step[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const WeightOperands operands = quantise_weights<kValue>(scales, w.at.i, weights[tile], rows[tile]);
    step[tile] = operands.step;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      a[0][tile][r] = operands.a[0][r];
      a[1][tile][r] = operands.a[1][r];
    }
  }
  const LevelWords<kValue> levels = fetch_levels(value_levels);
  const StagedArray<kValue, kStagedTokens, Form::kDim> codes(slot, w.at, levels);
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if constexpr (is_nonuniform(kValue)) {
      if (b == 2) hold_back_loads();  // for all blocks at once there are not registers everywhere
    }
    int sums[kTiles][4][4] = {};
    if constexpr (is_trellis(kValue)) {
#pragma unroll 1
      for (uint32_t group = 0; group < 2; ++group) {
        uint32_t chosen[kTiles][4];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int r = 0; r < 4; ++r) chosen[tile][r] = group == 0 ? a[0][tile][r] : a[1][tile][r];
        }
        multiply_staged<kValue, UnsignedBytes, false>(codes.load(group, 32U * static_cast<uint32_t>(b)),
                                                      levels, chosen, w.at.i, sums);
      }
    } else {
      multiply_staged<kValue, UnsignedBytes, true>(codes.load(0, 32U * static_cast<uint32_t>(b)), levels,
                                                   a[0], w.at.i, sums);
      multiply_staged<kValue, UnsignedBytes, false>(codes.load(1, 32U * static_cast<uint32_t>(b)), levels,
                                                    a[1], w.at.i, sums);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const int(&sum)[4] = sums[tile][k % 4];
        rows[tile].o[b][k] += static_cast<float>(sum[k / 4] * 256 + sum[2 + k / 4]) * step[tile];
      }
    }
    if constexpr (has_outliers(kValue)) add_outliers(w.at, meta, b, queries.weights, rows);
  }
  if constexpr (has_means(kValue)) add_means(w, meta + kStagedTokens, staged_mean_step<kValue>(param), rows);
}

}  // namespace quire::cuda
