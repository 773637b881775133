// Scores of a group of 32 tokens: queries as integers, dot products, what scales and means add.
#pragma once

#include "quant/cuda/float_operands.cuh"
#include "quant/cuda/warp_rows.cuh"

namespace quire::cuda {

inline constexpr float kQueryTop = 32639.0F;  // its upper half is 127 when the lower one has a sign

// Blocks of channels that a loop over keys has in its registers: more of them spill where outputs take many.
template <int kBlocks>
inline constexpr int kAtOnce = kBlocks > 2 ? 1 : kBlocks;

// Queries of a tile as operands. They lie in shared memory, [blocks][lanes] of four words, each thread's its
// own: there are not always registers for them.
struct QueryOperands {
  uint32_t* words;  // of this thread's lane; nullptr: not to be kept
  float scale;
  float offset;  // what each score has besides scale * sum

  static constexpr uint32_t words_of_warp(int blocks) {
    return static_cast<uint32_t>(blocks) * kWarpLanes * 4;
  }
  __device__ __forceinline__ void keep(int b, const uint32_t (&a)[4]) const {
    if (words != nullptr) store_as<uint4>(words + words_of_warp(b), make_uint4(a[0], a[1], a[2], a[3]));
  }
  __device__ __forceinline__ void load(int b, uint32_t (&a)[4]) const {
    const auto four = load_as<uint4>(words + words_of_warp(b));
    a[0] = four.x;
    a[1] = four.y;
    a[2] = four.z;
    a[3] = four.w;
  }
};

// Eight elements of a query as operands; their integers, each with kQueryExcess, are added to the sum.
inline constexpr uint32_t kQueryExcess = kRoundingBits + 128U;
template <bool kLookedUp>
__device__ __forceinline__ void pack_query(const float (&x)[8], float inverse, uint32_t& sum,
                                           uint32_t (&a)[4]) {
  uint32_t v[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    v[k] = rounded_bits<128>(x[k], inverse);  // so that the lower half, less 128, has a sign
    sum += v[k];
  }
  uint32_t upper[2];
  uint32_t lower[2];
  pack_halves<kLookedUp>(v, upper, lower);
  a[0] = upper[0];
  a[1] = lower[0] ^ 0x80808080U;
  a[2] = upper[1];
  a[3] = lower[1] ^ 0x80808080U;
}

// Quantises x = transformed query elements, given the row's largest magnitude; returns the sum of integers.
template <bool kLookedUp, int kBlocks, typename ElementsOf>
__device__ __forceinline__ int quantise(float largest, ElementsOf elements_of, QueryOperands& out) {
  const float top = fmaxf(largest, 1e-30F);
  const float inverse = kQueryTop * reciprocal_approx(top);
  out.scale = top * (1.0F / kQueryTop);
  uint32_t sum = 0;
#pragma unroll 2
  for (int b = 0; b < kBlocks; ++b) {
    float x[8];
    elements_of(b, x);
    uint32_t a[4];
    pack_query<kLookedUp>(x, inverse, sum, a);
    out.keep(b, a);
  }
  return quad_sum(static_cast<int>(sum - 8U * kBlocks * kQueryExcess));
}

// The queries as they are; returns the sum of integers.
template <bool kLookedUp, int kBlocks>
__device__ __forceinline__ int quantise_query(const WarpContext& w, int tile, QueryOperands& query) {
  float largest = 0.0F;
#pragma unroll 2
  for (int b = 0; b < kBlocks; ++b) {
    float x[8];
    load_query<kBlocks>(w, tile, b, x);
#pragma unroll
    for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fabsf(x[k]));
  }
  return quantise<kLookedUp, kBlocks>(
      quad_max(largest), [&](int b, float(&x)[8]) { load_query<kBlocks>(w, tile, b, x); }, query);
}

// sums += the queries' integers times the mean codes of block b. All columns are the same.
template <int kTiles>
__device__ __forceinline__ void multiply_means(const WarpContext& w, const uint8_t* means, int b,
                                               const uint32_t (&a)[kTiles][4], int (&sums)[kTiles][4]) {
  const auto mean = load_as<uint2>(means + 32 * b + 8 * w.at.i);
  const uint32_t operand[2] = {__byte_perm(mean.x, mean.y, 0x5140U), __byte_perm(mean.x, mean.y, 0x7362U)};
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    mma_bytes(SignedBytes{}, SignedBytes{}, sums[tile], a[tile], operand);
}

// q . mean of a section's rotated keys: score = scale of the token * (scale * sum) + this. means: mean codes.
template <int kBlocks>
__device__ __forceinline__ float mean_score(const WarpContext& w, const uint8_t* means, uint32_t param,
                                            const QueryOperands& query) {
  int sums[1][4] = {};
#pragma unroll(kAtOnce <kBlocks>)
  for (int b = 0; b < kBlocks; ++b) {
    uint32_t a[1][4];
    query.load(b, a[0]);
    multiply_means<1>(w, means, b, a, sums);
  }
  const float mean_step = step_approx(static_cast<int16_t>(param >> 16));
  return static_cast<float>(sums[0][0] * 256 + sums[0][2]) * (query.scale * mean_step);
}

// score = 2^e * (scale * (sum - centre * sum of integers) + q . mid), channel scales folded into q. meta: of
// keys.
template <int kBlocks>
__device__ __forceinline__ void uniform_query(const WarpContext& w, int tile, const uint8_t* scales,
                                              uint32_t param, uint32_t bits, QueryOperands& query) {
  const uint8_t* mids = scales + size_t{2} * kBlocks * 32;
  const float up = power_of_two(static_cast<int32_t>(param));
  const auto folded = [&](int b, float(&x)[8]) {
    float scale[8];
    load_eight_halves(scales + size_t{2} * (32 * b + 8 * w.at.i), scale);
    load_query<kBlocks>(w, tile, b, x);
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] *= scale[k];
  };
  float largest = 0.0F;
  float mid_dot = 0.0F;
#pragma unroll 2
  for (int b = 0; b < kBlocks; ++b) {
    float x[8];
    float mid[8];
    load_query<kBlocks>(w, tile, b, x);
    load_eight_halves(mids + size_t{2} * (32 * b + 8 * w.at.i), mid);
#pragma unroll
    for (int k = 0; k < 8; ++k) mid_dot += x[k] * mid[k];
    folded(b, x);
#pragma unroll
    for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fabsf(x[k]));
  }
  const int sum = quantise<false, kBlocks>(quad_max(largest), folded, query);
  query.offset = (quad_sum(mid_dot) - query.scale * (key_centre(bits) * static_cast<float>(sum))) * up;
  query.scale *= up;
}

template <int kBlocks, int kTiles>
__device__ __forceinline__ void prepare_queries(const WarpContext& w, const SectionRef& ref,
                                                QueryOperands (&queries)[kTiles]) {
  const DeviceCodec& codec = w.args.format.key;
  const uint8_t* meta = key_meta(w, ref);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (codec.family == CodecFamily::kUniform) {
      uniform_query<kBlocks>(w, tile, meta, ref.key_param, codec.bits, queries[tile]);
    } else if (codec.family == CodecFamily::kRotated) {
      (void)quantise_query<true, kBlocks>(w, tile, queries[tile]);
      queries[tile].offset =
          mean_score<kBlocks>(w, meta + w.args.format.shape.tokens, ref.key_param, queries[tile]);
    }
  }
}

template <CodecId kKey, int kBlocks, int kTiles>
__device__ __forceinline__ void integer_scores(const WarpContext& w, const SectionRef& ref, uint32_t group,
                                               const QueryOperands (&queries)[kTiles],
                                               float (&scores)[kTiles][8]) {
  const CodeArray keys{ref.section + w.args.format.layout.key_codes, kBlocks * 32,
                       w.args.format.shape.tokens};
  int sums[kTiles][4][4] = {};
#pragma unroll(kAtOnce <kBlocks>)
  for (int b = 0; b < kBlocks; ++b) {
    if constexpr (kBlocks > 2) hold_back_loads();
    const Operands operands = load_operands<kKey>(keys, static_cast<uint32_t>(b), group, w.at);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      uint32_t a[4];
      queries[tile].load(b, a);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        mma_bytes(SignedBytes{}, OperandSign<kKey>{}, sums[tile][t], a, operands.b[t]);
      }
    }
  }
  float token_scales[8];
  if constexpr (is_rotated(kKey)) logarithmic_scales(w, key_meta(w, ref), group, ref.key_param, token_scales);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int(&sum)[4] = sums[tile][k % 4];
      float score = static_cast<float>(sum[k / 4] * 256 + sum[2 + k / 4]) * queries[tile].scale;
      if constexpr (is_rotated(kKey)) score *= token_scales[k];
      scores[tile][k] = score + queries[tile].offset;
    }
  }
}

// Queries and f32 keys as two bf16 each; four products of 16 channels make a block of 32. keys: [dim][lanes],
// lane: of the thread's first token.
template <CodecId kKey, int kBlocks, int kTiles>
__device__ __forceinline__ void float_scores(const WarpContext& w, const uint8_t* keys, uint32_t lanes,
                                             uint32_t lane, float (&scores)[kTiles][8]) {
  float sums[kTiles][4][4] = {};
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
                                            const QueryOperands (&queries)[kTiles],
                                            float (&scores)[kTiles][8]) {
  const uint8_t* keys = ref.section + w.args.format.layout.key_codes;
  const uint32_t tokens = w.args.format.shape.tokens;
  switch (w.args.format.key.id) {
    case CodecId::kF32:
      return float_scores<CodecId::kF32, kBlocks>(w, keys, tokens, group + 4 * w.at.g, scores);
    case CodecId::kBf16:
      return float_scores<CodecId::kBf16, kBlocks>(w, keys, tokens, group + 4 * w.at.g, scores);
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
