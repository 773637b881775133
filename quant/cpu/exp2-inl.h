// 2^x by polynomial. Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// How exact 2^x must be: weights of 8 bits need no more than three digits.
enum class Exp2 : uint8_t { kRough, kFull };

// 2^x for x <= 64, relative error below 1e-4 (kRough) or 2e-7. x must not be infinite; 0 or below 2^-125 for
// x < -126. Minimax polynomials of degree 3 and 5 on [-1/2, 1/2].
template <Exp2 kPrecision = Exp2::kFull>
HWY_INLINE Floats exp2(Floats x) {
#if !defined(QUIRE_SIMD_AVX512)
  x = max(x, splat(-126.0F));  // the exponent is added to the bits: it must stay in range
#endif
  const Floats whole = round(x);
  const Floats part = x - whole;
  Floats p;
  if constexpr (kPrecision == Exp2::kRough) {
    p = mul_add(splat(5.517166906e-2F), part, splat(2.426111222e-1F));
    p = mul_add(p, part, splat(6.932609855e-1F));
    p = mul_add(p, part, splat(9.999280735e-1F));
  } else {
    p = mul_add(splat(1.327647217e-3F), part, splat(9.675541331e-3F));
    p = mul_add(p, part, splat(5.550713273e-2F));
    p = mul_add(p, part, splat(2.402211972e-1F));
    p = mul_add(p, part, splat(6.931469671e-1F));
    p = mul_add(p, part, splat(1.0F));
  }
#if defined(QUIRE_SIMD_AVX512)
  return Floats{{hn::Vec<FloatTag>{_mm512_scalef_ps(p.part[0].raw, whole.part[0].raw)}}};
#else
  return floats_from_bits(bits_of(p) + shift_left(to_ints(whole), 23));
#endif
}

// log2(x) within 2e-3 for positive normal x; about -127 for 0.
HWY_INLINE Floats rough_log2(Floats x) {
  const Ints bits = bits_of(x);
  const Floats exponent = to_floats(shift_right(bits, 23) - splat(127));
  const Floats mantissa = floats_from_bits((bits & splat(0x007FFFFF)) | splat(0x3F800000));
  Floats p = mul_add(splat(0.15391255F), mantissa, splat(-1.02948691F));
  p = mul_add(p, mantissa, splat(3.01071955F));
  p = mul_add(p, mantissa, splat(-2.1338103F));
  return exponent + p;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
