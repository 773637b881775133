// Encoding of the rotated codecs: a mean per channel, a logarithmic scale per token, Lloyd-Max levels.
// FORMATS.md orders every operation; nothing here may be fused or reassociated. Thread safety: pure
// functions.
#pragma once

#include <cstring>

#include "quant/cpu/level_codes-inl.h"
#include "quant/cpu/pack-inl.h"
#include "quant/cpu/rows-inl.h"
#include "quant/kernels.h"
#include "quant/levels.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr float kNegligible = 0x1p-60F;  // scales and means below it count as zero
inline constexpr int32_t kNoStep = -(1 << 30);

// The mean of x' over valid tokens. Returns M; writes the codes and the mean they decode to.
inline int encode_mean(const float* x, SectionShape shape, uint32_t first, float down, uint8_t* codes,
                       float* mean) {
  const Floats share = splat(1.0F / static_cast<float>(shape.tokens - first));
  Floats top = splat(0.0F);
  for (uint32_t c = 0; c < shape.dim; c += 2 * kLanes) {
    const float* at = x + size_t{first} * shape.dim + c;
    Floats sum = load(at) * splat(down);
    Floats next_sum = load(at + kLanes) * splat(down);  // beside it: each addition waits for the last
    for (uint32_t t = first + 1; t < shape.tokens; ++t) {
      at += shape.dim;
      sum = sum + load(at) * splat(down);
      next_sum = next_sum + load(at + kLanes) * splat(down);
    }
    store(sum * share, mean + c);
    store(next_sum * share, mean + c + kLanes);
    top = max(top, max(abs(load(mean + c)), abs(load(mean + c + kLanes))));
  }
  const float largest = largest_lane(top);
  const bool none = largest < kNegligible;
  const int n = none ? 0 : ceil_step(largest / 127.0F);
  const Floats step = splat(step_value(n));
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    const Ints rounded = none ? splat(0) : to_ints(load(mean + c) / step);
    const Ints code = max(min(rounded, splat(127)), splat(-127));
    store_low_bytes(code, codes + c);
    store(to_floats(code) * step, mean + c);
  }
  return n;
}

// Tokens of a section less their mean: r = x' - mean.
struct Residuals {
  const float* x;  // [tokens][dim]
  const float* mean;
  Floats down;
  uint32_t dim;

  HWY_INLINE Floats at(uint32_t token, uint32_t c) const {
    return load(x + size_t{token} * dim + c) * down - load(mean + c);
  }
};

// round_step of each lane.
HWY_INLINE Ints round_steps(Floats value) {
  const Ints bits = bits_of(value);
  const Floats mantissa = floats_from_bits((bits & splat(0x007FFFFF)) | splat(0x3F800000));
  Ints step = shift_left(shift_right(bits, 23) - splat(127), 4);
  static_assert(kStepsPerOctave == 16);
  for (const float boundary : kStepBoundary) {
    step = select(mantissa < splat(boundary), step, step + splat(1));
  }
  return step;
}

// Codes all tokens from `first` on, into rows of `codes`, and finds the steps of their scales, kNoStep where
// one is negligible. What one token's scale is made of is a chain of some 100 cycles: each of its parts is
// done for all tokens before the next.
template <uint32_t kBits>
void code_tokens(const Residuals& r, uint32_t tokens, uint32_t first, const LevelFloats& table,
                 uint8_t* codes, int32_t* steps) {
  alignas(64) float energies[kMaxTokens] = {};
  alignas(64) float estimates[kMaxTokens];
  alignas(64) float inverses[kMaxTokens];
  alignas(64) float products[kMaxTokens] = {};
  alignas(64) float level_squares[kMaxTokens] = {};
  for (uint32_t t = first; t < tokens; ++t) {
    Floats squares = r.at(t, 0) * r.at(t, 0);
    for (uint32_t c = kLanes; c < r.dim; c += kLanes) squares = squares + r.at(t, c) * r.at(t, c);
    energies[t] = sum16(squares);
  }
  const Floats share = splat(1.0F / static_cast<float>(r.dim));
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    const Floats estimate = sqrt(load(energies + t) * share) / splat(level_table(kBits).unit);
    store(estimate, estimates + t);
    store(splat(1.0F) / estimate, inverses + t);
  }
  for (uint32_t t = first; t < tokens; ++t) {
    if (estimates[t] < kNegligible) continue;
    const Floats inverse = splat(inverses[t]);
    Floats product = splat(0.0F);
    Floats squares = splat(0.0F);  // integers below 2^24: exact in any order
    for (uint32_t c = 0; c < r.dim; c += kLanes) {
      const Floats residual = r.at(t, c);
      const Ints code = rotated_codes<kBits>(residual * inverse, table);
      store_low_bytes(code, codes + size_t{t} * r.dim + c);
      const Floats level = lookup(table.levels, code);
      product = c == 0 ? residual * level : product + residual * level;
      squares = mul_add(level, level, squares);
    }
    products[t] = sum16(product);
    level_squares[t] = sum16(squares);
  }
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    const Floats product = load(products + t);
    const Floats unbiased = load(energies + t) / product;
    const Floats most = splat(2.0F) * (product / load(level_squares + t));
    const Mask negligible = load(estimates + t) < splat(kNegligible);
    store(select(negligible, splat(kNoStep), round_steps(min(unbiased, most))), steps + t);
  }
}

template <uint32_t kBits>
void encode_rotated(Side side, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                    uint8_t* meta, uint32_t* param) {
  alignas(64) uint8_t code_rows[kMaxCodes];
  alignas(64) float mean[kMaxDim];
  alignas(64) int32_t steps[kMaxTokens];
  const LevelFloats table(kBits, level_table(kBits).levels.data());

  std::memset(meta, 0, size_t{shape.tokens} + shape.dim);
  std::memset(code_rows, 0, size_t{first} * shape.dim);
  int exponent = 0;
  int mean_at = 0;
  int largest = kNoStep;
  if (first < shape.tokens) {
    const size_t left_out = size_t{first} * shape.dim;
    exponent = section_exponent(largest_magnitude(x + left_out, size_t{shape.tokens} * shape.dim - left_out));
    mean_at = encode_mean(x, shape, first, power_of_two(-exponent), meta + shape.tokens, mean);
  }
  const Residuals r{x, mean, splat(power_of_two(-exponent)), shape.dim};
  code_tokens<kBits>(r, shape.tokens, first, table, code_rows, steps);
  for (uint32_t t = first; t < shape.tokens; ++t) {
    if (steps[t] != kNoStep && steps[t] > largest) largest = steps[t];
  }
  if (largest == kNoStep) largest = 0;
  for (uint32_t t = first; t < shape.tokens; ++t) {
    const int scale_code = steps[t] - largest + 255;
    if (steps[t] == kNoStep || scale_code < 1) {
      std::memset(code_rows + size_t{t} * shape.dim, 0, shape.dim);
    } else {
      meta[t] = static_cast<uint8_t>(scale_code);
    }
  }
  pack_codes(side, kBits, shape, code_rows, codes);
  const int scale_at = largest + kStepsPerOctave * exponent;
  const int mean_step_at = mean_at + kStepsPerOctave * exponent;
  *param = (static_cast<uint32_t>(scale_at) & 0xFFFFU) | static_cast<uint32_t>(mean_step_at) << 16;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
