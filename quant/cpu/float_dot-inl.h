// Products in f32: float codecs, unfolded rows, and keys that were decoded in cache.
// Sums run in the order of the reduction axis, one lane per result. Thread safety: pure functions.
#pragma once

#include "quant/cpu/quad_dot-inl.h"
#include "quant/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// As many columns of lanes as leave the sums in registers: each column adds sums that do not wait for each
// other.
template <int kRows>
constexpr uint32_t float_columns_for(uint32_t lanes) {
  constexpr uint32_t kMost = kSumRegisters / (kRows * kParts);
  uint32_t columns = kMost < 1 ? 1 : kMost;
  if (columns > 4) columns = 4;
  while (lanes % (columns * kLanes) != 0) columns /= 2;
  return columns;
}

// Codes [count][lanes] of f32, or [count / 2][lanes][2] of bf16. finish(r, lane, sum over i of
// operand[r * stride + i] * code(i, lane)). kColumns * 16 divides lanes.
template <bool kBf16, int kRows, uint32_t kColumns, class Finish>
HWY_INLINE void float_dot(const uint8_t* codes, const uint8_t* ahead, uint32_t count, uint32_t lanes,
                          const float* operand, uint32_t stride, Finish finish) {
  constexpr uint32_t kTogether = kBf16 ? 2 : 1;  // of the reduction axis in a lane of codes
  for (uint32_t lane = 0; lane < lanes; lane += kColumns * kLanes) {
    Floats sum[kRows][kColumns];
    for (auto& row : sum) {
      for (Floats& s : row) s = splat(0.0F);
    }
    for (uint32_t i = 0; i < count; i += kTogether) {
      Floats value[kTogether][kColumns];
#pragma GCC unroll 4
      for (uint32_t k = 0; k < kColumns; ++k) {
        const size_t at = (size_t{i / kTogether} * lanes + lane + k * kLanes) * 4;
        prefetch(ahead + at);
        if constexpr (kBf16) {
          const Ints pair = load(reinterpret_cast<const int32_t*>(codes + at));
          value[0][k] = floats_from_bits(shift_left(pair, 16));
          value[1][k] = floats_from_bits(pair & splat(static_cast<int32_t>(0xFFFF0000U)));
        } else {
          value[0][k] = load(reinterpret_cast<const float*>(codes + at));
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (uint32_t j = 0; j < kTogether; ++j) {
          const Floats x = splat(operand[static_cast<uint32_t>(r) * stride + i + j]);
#pragma GCC unroll 4
          for (uint32_t k = 0; k < kColumns; ++k) sum[r][k] = mul_add(value[j][k], x, sum[r][k]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (uint32_t k = 0; k < kColumns; ++k) finish(r, lane + k * kLanes, sum[r][k]);
    }
  }
}

// scores[t] = q . keys[t] for rows of keys [tokens][dim]; writes up to the next multiple of 16, where it
// repeats the last token.
inline void score_row_major(const float* keys, uint32_t tokens, uint32_t dim, const float* q, float* scores) {
  constexpr uint32_t kTogether = 8;
  const uint32_t padded = round_up_to_lanes(tokens);
  for (uint32_t first = 0; first < padded; first += kTogether) {
    Floats sum[kTogether];
    for (Floats& s : sum) s = splat(0.0F);
    for (uint32_t c = 0; c < dim; c += kLanes) {
      const Floats x = load(q + c);
      for (uint32_t i = 0; i < kTogether; ++i) {
        const uint32_t token = first + i < tokens ? first + i : tokens - 1;
        sum[i] = mul_add(load(keys + size_t{token} * dim + c), x, sum[i]);
      }
    }
    alignas(64) PerRow eight;
    store(reduce_rows<AddOp>(sum), eight);
    for (uint32_t i = 0; i < kTogether; ++i) scores[first + i] = eight[i];
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
