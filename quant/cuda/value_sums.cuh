// Values of a group of 32 tokens times their weights, added to the rows' outputs.
#pragma once

#include "quant/cuda/float_operands.cuh"
#include "quant/cuda/warp_rows.cuh"

namespace quire::cuda {

inline constexpr float kWeightTop = 65535.0F;

// Scales of the thread's eight tokens; of uniform codecs the midpoints, too.
template <CodecId kValue>
__device__ __forceinline__ void value_scales(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                             float (&scales)[8], float (&mids)[8]) {
  if constexpr (is_rotated(kValue)) {
    logarithmic_scales(w, value_meta(w, ref), group, ref.value_param, scales);
  } else {
    const float up = power_of_two(static_cast<int32_t>(ref.value_param));
    const uint8_t* halves = value_meta(w, ref) + size_t{2} * (group + 8 * w.at.i);
    const auto scale_words = load_as<uint4>(halves);
    const auto mid_words = load_as<uint4>(halves + size_t{2} * w.args.format.shape.tokens);
    const uint32_t scale_pairs[4] = {scale_words.x, scale_words.y, scale_words.z, scale_words.w};
    const uint32_t mid_pairs[4] = {mid_words.x, mid_words.y, mid_words.z, mid_words.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      scales[k] = half_bits_to_float(scale_pairs[k / 2] >> (16 * (k % 2)) & 0xFFFFU) * up;
      mids[k] = half_bits_to_float(mid_pairs[k / 2] >> (16 * (k % 2)) & 0xFFFFU) * up;
    }
  }
}

template <CodecId kValue, int kBlocks, int kTiles>
__device__ __forceinline__ void integer_values(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                               const float (&weights)[kTiles][8],
                                               RowState<kBlocks> (&rows)[kTiles]) {
  float scales[8];
  float mids[8];
  value_scales<kValue>(w, ref, group, scales, mids);
  uint32_t a[kTiles][4];
  float step[kTiles];
  int centre[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float largest = 0.0F;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      largest = fmaxf(largest, weights[tile][k] * scales[k]);
      if constexpr (!is_rotated(kValue)) rows[tile].mid += weights[tile][k] * mids[k];
    }
    const float top = fmaxf(quad_max(largest), 1e-30F);
    const float inverse = kWeightTop * reciprocal_approx(top);
    step[tile] = top * (1.0F / kWeightTop);
    uint32_t v[8];
    int sum = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int weight = __float2int_rn(weights[tile][k] * scales[k] * inverse);
      sum += weight;
      v[k] = static_cast<uint32_t>(weight);
    }
    centre[tile] = value_centre<kValue>() == 0 ? 0 : quad_sum(sum) * value_centre<kValue>();
    uint32_t upper[2];
    uint32_t lower[2];
    pack_halves<looked_up(kValue)>(v, upper, lower);
    a[tile][0] = upper[0];
    a[tile][1] = lower[0];
    a[tile][2] = upper[1];
    a[tile][3] = lower[1];
  }
  const CodeArray values{ref.section + w.args.format.layout.value_codes, w.args.format.shape.tokens,
                         kBlocks * 32};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if (kBlocks > 2 && !has_block(w, b)) break;
    const Operands operands = load_operands<kValue>(values, group / 32, 32 * static_cast<uint32_t>(b), w.at);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        int sum[4] = {0, 0, 0, 0};
        mma_bytes(UnsignedBytes{}, OperandSign<kValue>{}, sum, a[tile], operands.b[t]);
        float(&o)[8] = rows[tile].o[b];
        o[t] += static_cast<float>(sum[0] * 256 + sum[2] - centre[tile]) * step[tile];
        o[4 + t] += static_cast<float>(sum[1] * 256 + sum[3] - centre[tile]) * step[tile];
      }
    }
  }
}

// values: [tokens][lanes], first: of the group's tokens.
template <CodecId kValue, int kBlocks, int kTiles>
__device__ __forceinline__ void float_values(const WarpContext& w, const uint8_t* values, uint32_t lanes,
                                             uint32_t first, const float (&weights)[kTiles][8],
                                             RowState<kBlocks> (&rows)[kTiles]) {
  uint32_t a[kTiles][2][4];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float(&p)[8] = weights[tile];
    split_to(p[0], p[1], p[2], p[3], a[tile][0]);
    split_to(p[4], p[5], p[6], p[7], a[tile][1]);
  }
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if (kBlocks > 1 && !has_block(w, b)) break;
    float sums[kTiles][4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      FloatOperands operands;
      load_floats<kValue>(values, first + 8 * w.at.i + 4 * static_cast<uint32_t>(half), lanes,
                          32 * static_cast<uint32_t>(b) + 4 * w.at.g, operands);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) multiply_floats<kValue>(sums[tile], a[tile][half], operands);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int k = 0; k < 8; ++k)
        rows[tile].o[b][k] += sums[tile][k % 4][k / 4] + sums[tile][k % 4][2 + k / 4];
    }
  }
}

template <int kBlocks, int kTiles>
__device__ __forceinline__ void accumulate(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                           const float (&weights)[kTiles][8],
                                           RowState<kBlocks> (&rows)[kTiles]) {
  const uint8_t* values = ref.section + w.args.format.layout.value_codes;
  switch (w.args.format.value.id) {
    case CodecId::kF32:
      return float_values<CodecId::kF32>(w, values, kBlocks * 32, group, weights, rows);
    case CodecId::kBf16:
      return float_values<CodecId::kBf16>(w, values, kBlocks * 32, group, weights, rows);
    case CodecId::kInt8:
      return integer_values<CodecId::kInt8, kBlocks>(w, ref, group, weights, rows);
    case CodecId::kInt4:
      return integer_values<CodecId::kInt4, kBlocks>(w, ref, group, weights, rows);
    case CodecId::kInt3:
      return integer_values<CodecId::kInt3, kBlocks>(w, ref, group, weights, rows);
    case CodecId::kInt2:
      return integer_values<CodecId::kInt2, kBlocks>(w, ref, group, weights, rows);
    case CodecId::kRot4:
      return integer_values<CodecId::kRot4, kBlocks>(w, ref, group, weights, rows);
    case CodecId::kRot3:
      return integer_values<CodecId::kRot3, kBlocks>(w, ref, group, weights, rows);
    case CodecId::kRot2:
      return integer_values<CodecId::kRot2, kBlocks>(w, ref, group, weights, rows);
    default:
      return;  // the launch has refused it
  }
}

// Rotated values: what the section's weights have of its mean.
template <int kBlocks, int kTiles>
__device__ __forceinline__ void add_means(const WarpContext& w, const uint8_t* means, float mean_step,
                                          RowState<kBlocks> (&rows)[kTiles]) {
  float weights[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    weights[tile] = quad_sum(rows[tile].weight) * mean_step;
    rows[tile].weight = 0.0F;
  }
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if constexpr (kBlocks > 4) hold_back_loads();
    const auto mean = load_as<uint2>(means + 32 * b + 8 * w.at.i);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint32_t word = k < 4 ? mean.x : mean.y;
      const auto code = static_cast<float>(static_cast<int8_t>(word >> (8 * (k % 4))));
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) rows[tile].o[b][k] += weights[tile] * code;
    }
  }
}
}  // namespace quire::cuda
