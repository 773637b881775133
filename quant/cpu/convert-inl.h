// bf16 and f16 to and from f32, and the check that values are finite. Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"
#include "quant/half.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// bf16 bits of sixteen f32, as quant/half.h defines them one by one.
HWY_INLINE Ints to_bf16(Floats x) {
  const Ints bits = bits_of(x);
  const Ints sign = shift_right(bits, 16) & splat(0x8000);
  const Ints magnitude = bits & splat(0x7FFFFFFF);
  const Ints odd = shift_right(magnitude, 16) & splat(1);
  const Ints rounded = shift_right(magnitude + splat(0x7FFF) + odd, 16);
  const Ints finite = min(rounded, splat(0x7F7F));
  const Ints infinite = splat(0x7F80);
  const Ints nan = shift_right(magnitude, 16) | splat(0x40);
  const Ints special = select(splat(0x7F800000) < magnitude, nan, infinite);
  return sign | select(magnitude < splat(0x7F800000), finite, special);
}

// The same of finite values, in half the instructions.
HWY_INLINE Ints finite_to_bf16(Floats x) {
  constexpr float kLargest = 0x1.FEp127F;
  const Ints bits = bits_of(max(min(x, splat(kLargest)), splat(-kLargest)));
  const Ints odd = shift_right(bits, 16) & splat(1);
  return shift_right(bits + splat(0x7FFF) + odd, 16) & splat(0xFFFF);
}

inline void convert_bf16_to_f32(const uint16_t* in, size_t n, float* out) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load_bf16(in + i), out + i);
  for (; i < n; ++i) out[i] = bf16_to_f32(in[i]);
}
inline void convert_f16_to_f32(const uint16_t* in, size_t n, float* out) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load_f16(in + i), out + i);
  for (; i < n; ++i) out[i] = f16_to_f32(in[i]);
}
inline void convert_f32_to_bf16(const float* in, size_t n, uint16_t* out) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_u16(to_bf16(load(in + i)), out + i);
  for (; i < n; ++i) out[i] = f32_to_bf16(in[i]);
}

inline bool all_finite(const float* x, size_t n) {
  // The largest exponent field over all values; only NaN and infinity reach 255.
  Ints top = splat(0);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top = max(top, bits_of(load(x + i)) & splat(0x7FFFFFFF));
  bool finite = all_true(top < splat(0x7F800000));
  for (; i < n; ++i) finite &= (std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFU) < 0x7F800000U;
  return finite;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
