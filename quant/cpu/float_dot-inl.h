// Products in f32: float codecs, unfolded rows, and keys that were decoded in cache.
// Sums run in the order of the reduction axis, one lane per result. Thread safety: pure functions.
#pragma once

#include "quant/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Codes [count][lanes] of f32, or [count / 2][lanes][2] of bf16. finish(r, lane, sum over i of
// operand[r * stride + i] * code(i, lane)). lanes: multiple of 16.
template <bool kBf16, int kRows, class Finish>
HWY_INLINE void float_dot(const uint8_t* codes, const uint8_t* ahead, uint32_t count, uint32_t lanes,
                          const float* operand, uint32_t stride, Finish finish) {
  for (uint32_t lane = 0; lane < lanes; lane += kLanes) {
    Floats sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = splat(0.0F);
    if constexpr (kBf16) {
      for (uint32_t i = 0; i < count; i += 2) {
        const size_t at = (size_t{i / 2} * lanes + lane) * 4;
        const Ints pair = load(reinterpret_cast<const int32_t*>(codes + at));
        prefetch(ahead + at);
        const Floats first = floats_from_bits(shift_left(pair, 16));
        const Floats second = floats_from_bits(pair & splat(static_cast<int32_t>(0xFFFF0000U)));
        for (int r = 0; r < kRows; ++r) {
          const float* x = operand + static_cast<uint32_t>(r) * stride + i;
          sum[r] = mul_add(second, splat(x[1]), mul_add(first, splat(x[0]), sum[r]));
        }
      }
    } else {
      for (uint32_t i = 0; i < count; ++i) {
        const size_t at = (size_t{i} * lanes + lane) * 4;
        const Floats value = load(reinterpret_cast<const float*>(codes + at));
        prefetch(ahead + at);
        for (int r = 0; r < kRows; ++r) {
          sum[r] = mul_add(value, splat(operand[static_cast<uint32_t>(r) * stride + i]), sum[r]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) finish(r, lane, sum[r]);
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
