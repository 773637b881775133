// Scales and midpoints of groups on their way to half precision. Thread safety: pure functions.
#pragma once

#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// A zero is stored as +0, whatever its sign came out as.
HWY_INLINE void store_half(Floats x, uint16_t* to) {
  store_f16(x, to);
  const Ints bits = load_u16(to);
  store_u16(select((bits & splat(0x7FFF)) == splat(0), splat(0), bits), to);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
