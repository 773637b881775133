// Keys of a section with a channel per thread: its tokens are in the thread's registers, so that what is
// found per channel needs no other thread. One section per block of head_dim threads, 64 or 128; pages of 32
// and 64 tokens.
#pragma once

#include "quant/cuda/encode_registers.cuh"

namespace quire::cuda::key_channels {

// Token 4 q + j of the thread's channel.
template <int kQuads>
using Tokens = registers::Values<kQuads>;

template <uint32_t kDim, int kQuads>
__device__ __forceinline__ void load_tokens(const InputRows& keys, Tokens<kQuads>& tokens) {
  const auto load = [&](auto rows) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
#pragma unroll
      for (int j = 0; j < 4; ++j) tokens.x[q][j] = rows.one(4 * q + j, threadIdx.x);
    }
  };
  if (keys.type == InputType::kF32 && keys.token_stride == kDim) {
    load(TypedRows<F32Input, false>{static_cast<const float*>(keys.first), kDim});  // one address for all
  } else {
    keys.typed<false>(load);
  }
}

// Tokens below `sinks` become `value`.
template <int kQuads>
__device__ __forceinline__ void replace_sinks(uint32_t sinks, float value, Tokens<kQuads>& tokens) {
  if (sinks == 0) return;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (static_cast<uint32_t>(4 * q + j) < sinks) tokens.x[q][j] = value;
    }
  }
}

// The largest magnitude of a thread's tokens.
template <int kQuads>
__device__ __forceinline__ float largest_of(const Tokens<kQuads>& tokens) {
  float largest = 0.0F;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) largest = fmaxf(largest, fabsf(tokens.x[q][j]));
  }
  return largest;
}

template <int kQuads>
__device__ __forceinline__ void scale(Tokens<kQuads>& tokens, float factor) {
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int j = 0; j < 4; ++j) tokens.x[q][j] = __fmul_rn(tokens.x[q][j], factor);
  }
}

// Words of kWidth-bit fields: 8 / kWidth quads of neighbouring channels each. quad_of(q): the fields of four
// channels, a byte each, the thread's own among them, of token 4 q + channel % 4.
template <uint32_t kWidth, int kQuads, typename QuadOf>
__device__ __forceinline__ void write_plane(uint8_t* plane, QuadOf quad_of) {
  constexpr uint32_t kShare = 8 / kWidth;  // quads of a word, four lanes each
  const uint32_t four = threadIdx.x / 4 % kShare;
  uint32_t words[kQuads];
#pragma unroll
  for (int q = 0; q < kQuads; ++q) words[q] = quad_of(q) << (kWidth * four);
    // Threads that have parts of the same words give each other halves of theirs until each has whole ones.
#pragma unroll
  for (uint32_t step = 1; step < kShare; step *= 2) {
    const bool upper = (four & step) != 0;
#pragma unroll
    for (uint32_t i = 0; i < kQuads / (2 * step); ++i) {
      const uint32_t mine = upper ? words[2 * i + 1] : words[2 * i];
      const uint32_t others = upper ? words[2 * i] : words[2 * i + 1];
      words[i] = mine | __shfl_xor_sync(kAllLanes, others, static_cast<int>(4 * step));
    }
  }
  const uint32_t row = threadIdx.x / (4 * kShare);
#pragma unroll
  for (uint32_t i = 0; i < kQuads / kShare; ++i) {
    const uint32_t token = 4 * (kShare * i + four) + threadIdx.x % 4;
    store_as<uint32_t>(plane + (row * (4 * kQuads) + token) * 4, words[i]);
  }
}

// The planes of codes of `bits`, 4, 3 or 2, a byte each in codes.quad[q].
template <uint32_t kDim, int kQuads>
__device__ __forceinline__ void write_codes(uint32_t bits, uint8_t* plane,
                                            const registers::Codes<kQuads>& codes) {
  registers::Codes<kQuads> quads;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) quads.quad[q] = registers::transpose_bytes<1>(codes.quad[q]);
  if (bits == 4) {
    write_plane<4, kQuads>(plane, [&](int q) { return quads.quad[q]; });
    return;
  }
  write_plane<2, kQuads>(plane, [&](int q) { return quads.quad[q] & 0x03030303U; });
  if (bits == 2) return;
  write_plane<1, kQuads>(plane + kDim * kQuads, [&](int q) { return quads.quad[q] >> 2 & 0x01010101U; });
}

}  // namespace quire::cuda::key_channels
