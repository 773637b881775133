// IEEE half precision with the toolkit's names: the conversions and the arithmetic that kernels use.
#pragma once

#include <emu_rounding.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstdint>

struct __half_raw {
  unsigned short x;
};
struct __half {
  unsigned short bits;
  __half() = default;
  constexpr __half(__half_raw raw) : bits(raw.x) {}
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  const unsigned sign = (value.bits & 0x8000U) << 16;
  const unsigned exponent = value.bits >> 10 & 0x1FU;
  const unsigned fraction = value.bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | fraction << 13);
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                    : std::ldexp(static_cast<float>(fraction | 0x400U), static_cast<int>(exponent) - 25);
  return std::bit_cast<float>(sign | std::bit_cast<unsigned>(magnitude));
}

namespace emu {

// To nearest, ties to even, of a number that f64 holds; every NaN becomes 0x7FFF.
inline __half to_half(double value) {
  if (!(value == value)) return __half_raw{0x7FFF};
  const auto sign = static_cast<unsigned>(std::signbit(value)) << 15;
  const double magnitude = std::fabs(value);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  // The spacing of halves there: 2^-10 of the leading power of two, 2^-24 at least.
  const int spacing = magnitude == 0.0 || exponent - 11 < -24 ? -24 : exponent - 11;
  const double steps = std::nearbyint(std::ldexp(magnitude, -spacing));
  if (std::ldexp(steps, spacing) >= 65520.0) return __half_raw{static_cast<unsigned short>(sign | 0x7C00U)};
  // `steps` counts from the exponent's field on: a carry out of the fraction goes where it should.
  const auto count = static_cast<unsigned>(steps);
  const unsigned bits = spacing == -24 ? count : count + (static_cast<unsigned>(spacing + 24) << 10);
  return __half_raw{static_cast<unsigned short>(sign | bits)};
}

}  // namespace emu

inline __half __float2half_rn(float value) { return emu::to_half(double{value}); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
// f64 holds sums and products of halves exactly.
inline __half __hadd(__half a, __half b) {
  return emu::to_half(double{__half2float(a)} + double{__half2float(b)});
}
inline __half __hmul(__half a, __half b) {
  return emu::to_half(double{__half2float(a)} * double{__half2float(b)});
}
inline __half __hfma(__half a, __half b, __half c) {
  return emu::to_half(
      emu::sum_to_odd(double{__half2float(a)} * double{__half2float(b)}, double{__half2float(c)}));
}
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
