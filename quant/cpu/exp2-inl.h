// 2^x by polynomial. Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// 2^x for x <= 64, relative error below 2e-7. x must not be infinite; 0 or below 2^-125 for x < -126.
// The minimax polynomial of degree 5 on [-1/2, 1/2].
HWY_INLINE Floats exp2(Floats x) {
#if !defined(QUIRE_SIMD_AVX512)
  x = max(x, splat(-126.0F));  // the exponent is added to the bits: it must stay in range
#endif
  const Floats whole = round(x);
  const Floats part = x - whole;
  Floats p = mul_add(splat(1.327647217e-3F), part, splat(9.675541331e-3F));
  p = mul_add(p, part, splat(5.550713273e-2F));
  p = mul_add(p, part, splat(2.402211972e-1F));
  p = mul_add(p, part, splat(6.931469671e-1F));
  p = mul_add(p, part, splat(1.0F));
#if defined(QUIRE_SIMD_AVX512)
  return Floats{{hn::Vec<FloatTag>{_mm512_scalef_ps(p.part[0].raw, whole.part[0].raw)}}};
#else
  return floats_from_bits(bits_of(p) + shift_left(to_ints(whole), 23));
#endif
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
