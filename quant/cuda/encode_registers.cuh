// What the encoders share in which a thread keeps its values in registers: four lanes have the channels of a
// token, four neighbours of every sixteen each, eight tokens make a warp. One side of a section per block;
// head_dim 64 and 128, pages of 32 and 64 tokens.
#pragma once

#include "quant/cuda/encode_input.cuh"
#include "quant/cuda/numbers.cuh"
#include "quant/hadamard.h"

namespace quire::cuda::registers {

inline constexpr uint32_t kLanesOfToken = 4;
inline constexpr uint32_t kMaxTokens = 64;  // more would leave one block per multiprocessor
inline constexpr uint32_t kMaxThreads = kLanesOfToken * kMaxTokens;

// Of a row in shared memory: the padding keeps four lanes and two tokens off each other's banks.
constexpr uint32_t row_floats(uint32_t dim) { return dim + 16; }

// Values 16 k + 4 l + j of a thread's token, l its lane of the four.
template <int kSixteens>
struct Values {
  float x[kSixteens][4];
};

struct Job {
  SectionShape shape;
  uint32_t first;  // tokens below it are sinks
  uint32_t token;
  uint32_t lane;  // l
  uint8_t* codes;
  uint8_t* meta;
  float* scratch;  // [32]
};

template <int kSixteens>
__device__ __forceinline__ void write_sink(uint8_t* row, uint32_t lane, const Values<kSixteens>& values) {
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const uint32_t low = f32_to_bf16(values.x[k][0]) | uint32_t{f32_to_bf16(values.x[k][1])} << 16;
    const uint32_t high = f32_to_bf16(values.x[k][2]) | uint32_t{f32_to_bf16(values.x[k][3])} << 16;
    store_as<uint2>(row + size_t{2} * (16 * k + 4 * lane), make_uint2(low, high));
  }
}

// Values less the section's power of two; returns that power's exponent.
template <int kSixteens>
__device__ __forceinline__ int scale_down(const Job& job, Values<kSixteens>& values) {
  float largest = 0.0F;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) largest = fmaxf(largest, fabsf(values.x[k][j]));
  }
  if (job.token < job.first) largest = 0.0F;
  const int exponent = device_section_exponent(block_max(largest, job.scratch));
  const float down = power_of_two(-exponent);
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) values.x[k][j] = __fmul_rn(values.x[k][j], down);
  }
  return exponent;
}

// FORMATS.md's sum16 of a token, from the four partial sums of each of its lanes.
__device__ __forceinline__ float sum_of_token(float (&p)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) p[j] = __fadd_rn(p[j], __shfl_xor_sync(kAllLanes, p[j], 2));
#pragma unroll
  for (int j = 0; j < 4; ++j) p[j] = __fadd_rn(p[j], __shfl_xor_sync(kAllLanes, p[j], 1));
  return __fadd_rn(__fadd_rn(p[0], p[2]), __fadd_rn(p[1], p[3]));
}

// Codes of four channels, a byte each.
template <int kSixteens>
struct Codes {
  uint32_t quad[kSixteens];
};

// Words of kWidth-bit fields of keys: 8 / kWidth quads of neighbouring channels each. quad_of(k): of the
// thread.
template <uint32_t kWidth, int kSixteens, typename QuadOf>
__device__ __forceinline__ void write_keys(const Job& job, uint8_t* plane, QuadOf quad_of) {
  constexpr uint32_t kQuads = 8 / kWidth;
  constexpr int kStep = kQuads == 8 ? 2 : 1;  // sixteens of a word
#pragma unroll
  for (int k = 0; k < kSixteens; k += kStep) {
    uint32_t word = quad_of(k) << (kWidth * (job.lane % kQuads));
    if constexpr (kQuads == 8) word |= quad_of(k + 1) << (kWidth * (4 + job.lane));
    if constexpr (kQuads >= 2) word |= __shfl_xor_sync(kAllLanes, word, 1);
    if constexpr (kQuads >= 4) word |= __shfl_xor_sync(kAllLanes, word, 2);
    // Every lane has the word of its quads: they take turns to write.
    constexpr uint32_t kSharers = kQuads < 4 ? kQuads : 4;
    if (job.lane % kSharers == static_cast<uint32_t>(k / kStep) % kSharers) {
      const uint32_t row = (4 * static_cast<uint32_t>(k) + job.lane) / kQuads;
      store_as<uint32_t>(plane + (size_t{row} * job.shape.tokens + job.token) * 4, word);
    }
  }
}

// Byte j of the quad of four threads that are kStep lanes apart: the j-th of them gets those of all four.
template <uint32_t kStep>
__device__ __forceinline__ uint32_t transpose_bytes(uint32_t quad) {
  const uint32_t i = threadIdx.x / kStep;
  uint32_t other = __shfl_xor_sync(kAllLanes, quad, static_cast<int>(kStep));
  quad = __byte_perm(quad, other, i % 2 == 0 ? 0x6240U : 0x3715U);
  other = __shfl_xor_sync(kAllLanes, quad, static_cast<int>(2 * kStep));
  return __byte_perm(quad, other, i / 2 % 2 == 0 ? 0x5410U : 0x3276U);
}

// Words of kWidth-bit fields of values: 8 / kWidth quads of tokens each, of which a warp has two. quad_of(k):
// of channel 16 k + 4 l + token % 4. parts: [tokens / 8] [dim] in shared memory, where words meet that
// several warps have a share of.
template <uint32_t kWidth, int kSixteens, typename QuadOf>
__device__ __forceinline__ void write_values(const Job& job, uint8_t* plane, uint32_t* parts,
                                             QuadOf quad_of) {
  constexpr uint32_t kQuads = 8 / kWidth;
  constexpr uint32_t kDim = 16 * kSixteens;
  constexpr uint32_t kShares = kQuads / 2;
  const uint32_t eight = job.token / 8;
  const uint32_t channel_of_four = job.token % 4;
  const uint32_t shift = kWidth * (job.token / 4 % kQuads);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    uint32_t word = quad_of(k) << shift;
    word |= __shfl_xor_sync(kAllLanes, word, 16);
    if (job.token / 4 % 2 == static_cast<uint32_t>(k) % 2)
      parts[eight * kDim + 16 * k + 4 * job.lane + channel_of_four] = word;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < job.shape.tokens / (8 * kShares) * kDim; i += blockDim.x) {
    const uint32_t* part = parts + size_t{i / kDim} * kShares * kDim + i % kDim;
    uint32_t word = part[0];
#pragma unroll
    for (uint32_t share = 1; share < kShares; ++share) word |= part[share * kDim];
    store_as<uint32_t>(plane + size_t{4} * i, word);
  }
}

// Bytes of values: a word is one quad of tokens, that of quad_of as above.
template <int kSixteens, typename QuadOf>
__device__ __forceinline__ void write_value_bytes(const Job& job, uint8_t* plane, QuadOf quad_of) {
  constexpr uint32_t kDim = 16 * kSixteens;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const uint32_t channel = 16 * static_cast<uint32_t>(k) + 4 * job.lane + job.token % 4;
    store_as<uint32_t>(plane + (size_t{job.token / 4} * kDim + channel) * 4, quad_of(k));
  }
}

template <uint32_t kWidth, int kSixteens, bool kKeys, typename QuadOf>
__device__ __forceinline__ void write_plane(const Job& job, uint8_t* plane, uint32_t* parts, QuadOf quad_of) {
  if constexpr (kKeys) {
    write_keys<kWidth, kSixteens>(job, plane, quad_of);
  } else if constexpr (kWidth == 8) {
    write_value_bytes<kSixteens>(job, plane, quad_of);
  } else {
    write_values<kWidth, kSixteens>(job, plane, parts, quad_of);
  }
}

template <int kSixteens>
__device__ __forceinline__ void load_values(const EncodeInput& input, const Job& job,
                                            Values<kSixteens>& values) {
  input_rows(input).with_fours([&](auto rows) {
#pragma unroll
    for (int k = 0; k < kSixteens; ++k) {
      const float4 four = rows.four(job.token, 16 * static_cast<uint32_t>(k) + 4 * job.lane);
      values.x[k][0] = four.x;
      values.x[k][1] = four.y;
      values.x[k][2] = four.z;
      values.x[k][3] = four.w;
    }
  });
}

// Values become H (diag values), FORMATS.md "Rotation", diag: [dim] or nullptr. The butterflies' distances
// grow: four neighbours lie in a thread, four lanes have sixteen.
template <int kSixteens>
__device__ __forceinline__ void rotate_values(const float* diag, uint32_t lane, Values<kSixteens>& values) {
  constexpr float kNorm = hadamard_norm(16 * kSixteens);
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    float(&x)[4] = values.x[k];
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = fminf(fmaxf(x[j], -kRotationClamp), kRotationClamp);
    if (diag != nullptr) {
      const auto four = load_as<float4>(diag + 16 * k + 4 * lane);
      const float factors[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = __fmul_rn(x[j], factors[j]);
    }
    const float near[4] = {__fadd_rn(x[0], x[1]), __fsub_rn(x[0], x[1]), __fadd_rn(x[2], x[3]),
                           __fsub_rn(x[2], x[3])};
    x[0] = __fadd_rn(near[0], near[2]);
    x[1] = __fadd_rn(near[1], near[3]);
    x[2] = __fsub_rn(near[0], near[2]);
    x[3] = __fsub_rn(near[1], near[3]);
#pragma unroll
    for (uint32_t distance = 1; distance < kLanesOfToken; distance *= 2) {
      const float sign = (lane & distance) == 0 ? 1.0F : -1.0F;  // a product with it is exact
#pragma unroll
      for (int j = 0; j < 4; ++j)
        x[j] = fmaf(x[j], sign, __shfl_xor_sync(kAllLanes, x[j], static_cast<int>(distance)));
    }
  }
#pragma unroll
  for (int distance = 1; distance < kSixteens; distance *= 2) {
#pragma unroll
    for (int k = 0; k < kSixteens; ++k) {
      if ((k & distance) != 0) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float low = values.x[k][j];
        const float high = values.x[k | distance][j];
        values.x[k][j] = __fadd_rn(low, high);
        values.x[k | distance][j] = __fsub_rn(low, high);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
#pragma unroll
    for (int j = 0; j < 4; ++j) values.x[k][j] = __fmul_rn(values.x[k][j], kNorm);
  }
}

// kRotate: values are rotated where the input wants it.
template <bool kRotate, int kSixteens>
__device__ __forceinline__ void load_input(const EncodeInput& input, const Job& job,
                                           Values<kSixteens>& values) {
  load_values(input, job, values);
  if (!kRotate || !input.rotate) return;
  const float* balance = input.balance;
  if (balance != nullptr) balance += size_t{blockIdx.x % input.heads} * 16 * kSixteens;
  rotate_values(balance, job.lane, values);
}

// The planes of a codec. parts: as in write_values.
template <uint32_t kBits, int kSixteens, bool kKeys>
__device__ __forceinline__ void write_codes(const Job& job, const Codes<kSixteens>& codes, uint32_t kept,
                                            uint32_t* parts) {
  Codes<kSixteens> quads;
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const uint32_t quad = codes.quad[k] & kept;
    quads.quad[k] = kKeys ? quad : transpose_bytes<kLanesOfToken>(quad);
  }
  if constexpr (kBits == 3) {
    uint8_t* upper = job.codes + size_t{job.shape.tokens} * job.shape.dim / 4;
    write_plane<2, kSixteens, kKeys>(job, job.codes, parts,
                                     [&](int k) { return quads.quad[k] & 0x03030303U; });
    write_plane<1, kSixteens, kKeys>(job, upper, parts,
                                     [&](int k) { return quads.quad[k] >> 2 & 0x01010101U; });
  } else {
    write_plane<kBits, kSixteens, kKeys>(job, job.codes, parts, [&](int k) { return quads.quad[k]; });
  }
}

// Rows in shared memory: [tokens][row_floats]. No barrier.
template <int kSixteens>
__device__ __forceinline__ void store_row(const Job& job, const Values<kSixteens>& values, float* rows) {
#pragma unroll
  for (int k = 0; k < kSixteens; ++k) {
    const float(&x)[4] = values.x[k];
    store_as<float4>(rows + size_t{job.token} * row_floats(16 * kSixteens) + 16 * k + 4 * job.lane,
                     make_float4(x[0], x[1], x[2], x[3]));
  }
}

// What a thread starts with: its job and its values, those of sinks written and then taken for zeros, which
// must be finite and are not looked at. With the side of values comes the section's padding.
template <int kSixteens, bool kKeys, bool kRotate = false>
__device__ __forceinline__ Job start(const EncodeArgs& args, float* scratch, Values<kSixteens>& values) {
  constexpr uint32_t kDim = 16 * kSixteens;
  const SectionLayout& layout = args.format.layout;
  const SectionShape shape = args.format.shape;
  uint8_t* section = args.sections[blockIdx.x];
  const Job job{shape,
                args.format.sink_tokens,
                threadIdx.x / kLanesOfToken,
                threadIdx.x % kLanesOfToken,
                section + (kKeys ? layout.key_codes : layout.value_codes),
                section + (kKeys ? layout.key_meta : layout.value_meta),
                scratch};
  load_input<kRotate>(input_of(args, kKeys), job, values);
  if (job.token < job.first) {
    uint8_t* sinks = section + (kKeys ? layout.sink_keys : layout.sink_values);
    write_sink(sinks + size_t{2} * job.token * kDim, job.lane, values);
    values = {};
  }
  if constexpr (!kKeys) {
    const uint32_t used = layout.sink_values + 2 * job.first * kDim;
    for (uint32_t i = used + threadIdx.x; i < layout.bytes; i += blockDim.x) section[i] = 0;
  }
  return job;
}

}  // namespace quire::cuda::registers
