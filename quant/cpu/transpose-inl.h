// Matrices of 32-bit words turned over: keys stand channel by channel in a page, token by token outside.
// Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

HWY_INLINE void transpose_four(const uint32_t* in, size_t in_stride, uint32_t* out, size_t out_stride) {
  const hn::FixedTag<uint32_t, 4> words;
  const hn::FixedTag<uint64_t, 2> pairs;
  const auto row = [&](size_t r) __attribute__((always_inline)) {
    return hn::LoadU(words, in + r * in_stride);
  };
  const auto save = [&](size_t c, hn::Vec<decltype(pairs)> column) __attribute__((always_inline)) {
    hn::StoreU(hn::BitCast(words, column), words, out + c * out_stride);
  };
  const auto low_01 = hn::BitCast(pairs, hn::InterleaveLower(words, row(0), row(1)));
  const auto low_23 = hn::BitCast(pairs, hn::InterleaveLower(words, row(2), row(3)));
  const auto high_01 = hn::BitCast(pairs, hn::InterleaveUpper(words, row(0), row(1)));
  const auto high_23 = hn::BitCast(pairs, hn::InterleaveUpper(words, row(2), row(3)));
  save(0, hn::InterleaveLower(pairs, low_01, low_23));
  save(1, hn::InterleaveUpper(pairs, low_01, low_23));
  save(2, hn::InterleaveLower(pairs, high_01, high_23));
  save(3, hn::InterleaveUpper(pairs, high_01, high_23));
}

// out[c][r] = in[r][c] of words; rows and columns: multiples of four. Strides in words.
inline void transpose(const void* in, size_t in_stride, uint32_t rows, uint32_t columns, void* out,
                      size_t out_stride) {
  for (uint32_t c = 0; c < columns; c += 4) {
    for (uint32_t r = 0; r < rows; r += 4) {
      transpose_four(static_cast<const uint32_t*>(in) + r * in_stride + c, in_stride,
                     static_cast<uint32_t*>(out) + c * out_stride + r, out_stride);
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
