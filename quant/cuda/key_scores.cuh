// Scores of a group of 32 tokens: queries as integers, dot products, what scales and means add.
#pragma once

#include "quant/cuda/float_operands.cuh"
#include "quant/cuda/warp_rows.cuh"

namespace quire::cuda {

inline constexpr float kQueryTop = 32639.0F;  // its upper half is 127 when the lower one has a sign

// Queries of a tile as operands.
template <int kBlocks>
struct QueryOperands {
  uint32_t a[kBlocks][4];
  float scale;
  float offset;  // what each score has besides scale * sum
};

// Quantises x = transformed query elements, given the row's largest magnitude; returns the sum of integers.
template <bool kLookedUp, int kBlocks, typename ElementsOf>
__device__ __forceinline__ int quantise(float largest, ElementsOf elements_of, QueryOperands<kBlocks>& out) {
  const float top = fmaxf(largest, 1e-30F);
  const float inverse = kQueryTop / top;
  out.scale = top * (1.0F / kQueryTop);
  int sum = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    float x[8];
    elements_of(b, x);
    uint32_t v[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int q = __float2int_rn(x[k] * inverse);
      sum += q;
      v[k] = static_cast<uint32_t>(q + 128);  // so that the lower half, less 128, has a sign
    }
    uint32_t upper[2];
    uint32_t lower[2];
    pack_halves<kLookedUp>(v, upper, lower);
    out.a[b][0] = upper[0];
    out.a[b][1] = lower[0] ^ 0x80808080U;
    out.a[b][2] = upper[1];
    out.a[b][3] = lower[1] ^ 0x80808080U;
  }
  return quad_sum(sum);
}

// score = scale of the token * (scale * sum) + q . mean
template <int kBlocks, int kTiles>
__device__ __forceinline__ void rotated_queries(const WarpContext& w, const SectionRef& ref,
                                                QueryOperands<kBlocks> (&queries)[kTiles]) {
  const float mean_step = step_approx(static_cast<int16_t>(ref.key_param >> 16));
  const uint8_t* means = key_meta(w, ref) + w.args.format.shape.tokens;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float largest = 0.0F;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      float x[8];
      load_query<kBlocks>(w, tile, b, x);
#pragma unroll
      for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fabsf(x[k]));
    }
    QueryOperands<kBlocks>& query = queries[tile];
    (void)quantise<true, kBlocks>(
        quad_max(largest), [&](int b, float(&x)[8]) { load_query<kBlocks>(w, tile, b, x); }, query);
    int dot[4] = {0, 0, 0, 0};
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const auto mean = load_as<uint2>(means + 32 * b + 8 * w.at.i);
      const uint32_t operand[2] = {__byte_perm(mean.x, mean.y, 0x5140U),
                                   __byte_perm(mean.x, mean.y, 0x7362U)};
      mma_bytes(SignedBytes{}, SignedBytes{}, dot, query.a[b], operand);
    }
    query.offset = static_cast<float>(dot[0] * 256 + dot[2]) * (query.scale * mean_step);
  }
}

// score = 2^e * (scale * (sum - centre * sum of integers) + q . mid), channel scales folded into q
template <int kBlocks, int kTiles>
__device__ __forceinline__ void uniform_queries(const WarpContext& w, const SectionRef& ref,
                                                QueryOperands<kBlocks> (&queries)[kTiles]) {
  const uint8_t* scales = key_meta(w, ref);
  const uint8_t* mids = scales + size_t{2} * kBlocks * 32;
  const float up = power_of_two(static_cast<int32_t>(ref.key_param));
  const auto eight_halves = [&](const uint8_t* halves, int b, float(&x)[8]) {
    const auto words = load_as<uint4>(halves + size_t{2} * (32 * b + 8 * w.at.i));
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = half_bits_to_float(pairs[k / 2] >> (16 * (k % 2)) & 0xFFFFU);
  };
  const auto folded = [&](int tile, int b, float(&x)[8]) {
    float scale[8];
    eight_halves(scales, b, scale);
    load_query<kBlocks>(w, tile, b, x);
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] *= scale[k];
  };
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float largest = 0.0F;
    float mid_dot = 0.0F;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      float x[8];
      float mid[8];
      load_query<kBlocks>(w, tile, b, x);
      eight_halves(mids, b, mid);
#pragma unroll
      for (int k = 0; k < 8; ++k) mid_dot += x[k] * mid[k];
      folded(tile, b, x);
#pragma unroll
      for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fabsf(x[k]));
    }
    QueryOperands<kBlocks>& query = queries[tile];
    const int sum = quantise<false, kBlocks>(
        quad_max(largest), [&](int b, float(&x)[8]) { folded(tile, b, x); }, query);
    query.offset =
        (quad_sum(mid_dot) - query.scale * (key_centre(w.args.format.key.bits) * static_cast<float>(sum))) *
        up;
    query.scale *= up;
  }
}

template <int kBlocks, int kTiles>
__device__ __forceinline__ void prepare_queries(const WarpContext& w, const SectionRef& ref,
                                                QueryOperands<kBlocks> (&queries)[kTiles]) {
  switch (w.args.format.key.family) {
    case CodecFamily::kUniform:
      return uniform_queries(w, ref, queries);
    case CodecFamily::kRotated:
      return rotated_queries(w, ref, queries);
    default:
      return;
  }
}

template <CodecId kKey, int kBlocks, int kTiles>
__device__ __forceinline__ void integer_scores(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                               const QueryOperands<kBlocks> (&queries)[kTiles],
                                               float (&scores)[kTiles][8]) {
  const CodeArray keys{ref.section + w.args.format.layout.key_codes, kBlocks * 32,
                       w.args.format.shape.tokens};
  int sums[kTiles][4][4] = {};
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const Operands operands = load_operands<kKey>(keys, static_cast<uint32_t>(b), group, w.at);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        mma_bytes(SignedBytes{}, OperandSign<kKey>{}, sums[tile][t], queries[tile].a[b], operands.b[t]);
      }
    }
  }
  float token_scales[8];
  if constexpr (looked_up(kKey)) logarithmic_scales(w, key_meta(w, ref), group, ref.key_param, token_scales);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int(&sum)[4] = sums[tile][k % 4];
      float score = static_cast<float>(sum[k / 4] * 256 + sum[2 + k / 4]) * queries[tile].scale;
      if constexpr (looked_up(kKey)) score *= token_scales[k];
      scores[tile][k] = score + queries[tile].offset;
    }
  }
}

// Queries and f32 keys as two bf16 each; four products of 16 channels make a block of 32.
template <CodecId kKey, int kBlocks, int kTiles>
__device__ __forceinline__ void float_scores(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                             float (&scores)[kTiles][8]) {
  float sums[kTiles][4][4] = {};
  const uint8_t* keys = ref.section + w.args.format.layout.key_codes;
  const uint32_t lanes = w.args.format.shape.tokens;
  const uint32_t lane = group + 4 * w.at.g;
#pragma unroll 1
  for (int b = 0; b < kBlocks; ++b) {
    uint32_t a[kTiles][2][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float x[8];
      load_query<kBlocks>(w, tile, b, x);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        split_to(x[4 * half], x[4 * half + 1], x[4 * half + 2], x[4 * half + 3], a[tile][half]);
    }
    const uint32_t row = 32 * static_cast<uint32_t>(b) + 8 * w.at.i;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      FloatOperands operands;
      load_floats<kKey>(keys, row + 4 * static_cast<uint32_t>(half), lanes, lane, operands);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) multiply_floats<kKey>(sums[tile], a[tile][half], operands);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int k = 0; k < 8; ++k) scores[tile][k] = sums[tile][k % 4][k / 4] + sums[tile][k % 4][2 + k / 4];
  }
}

template <int kBlocks, int kTiles>
__device__ __forceinline__ void score_group(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                            const QueryOperands<kBlocks> (&queries)[kTiles],
                                            float (&scores)[kTiles][8]) {
  switch (w.args.format.key.id) {
    case CodecId::kF32:
      return float_scores<CodecId::kF32, kBlocks>(w, ref, group, scores);
    case CodecId::kBf16:
      return float_scores<CodecId::kBf16, kBlocks>(w, ref, group, scores);
    case CodecId::kInt8:
      return integer_scores<CodecId::kInt8, kBlocks>(w, ref, group, queries, scores);
    case CodecId::kInt4:
      return integer_scores<CodecId::kInt4, kBlocks>(w, ref, group, queries, scores);
    case CodecId::kInt3:
      return integer_scores<CodecId::kInt3, kBlocks>(w, ref, group, queries, scores);
    case CodecId::kInt2:
      return integer_scores<CodecId::kInt2, kBlocks>(w, ref, group, queries, scores);
    case CodecId::kRot4:
      return integer_scores<CodecId::kRot4, kBlocks>(w, ref, group, queries, scores);
    case CodecId::kRot3:
      return integer_scores<CodecId::kRot3, kBlocks>(w, ref, group, queries, scores);
    case CodecId::kRot2:
      return integer_scores<CodecId::kRot2, kBlocks>(w, ref, group, queries, scores);
    default:
      return;  // the launch has refused it
  }
}
}  // namespace quire::cuda
