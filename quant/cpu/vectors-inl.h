// Sixteen lanes, whatever the width of a register: one vector with AVX-512, two with AVX2, four with NEON.
// Thread safety: types.
#pragma once

#include "quant/cpu/target.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr uint32_t kLanes = 16;

constexpr uint32_t round_up_to_lanes(uint32_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

using FloatTag = hn::CappedTag<float, kLanes>;
using IntTag = hn::RebindToSigned<FloatTag>;
inline constexpr uint32_t kPartLanes = HWY_MAX_BYTES / sizeof(float);
inline constexpr uint32_t kParts = kLanes / kPartLanes;

struct Floats {
  hn::Vec<FloatTag> part[kParts];
};
struct Ints {
  hn::Vec<IntTag> part[kParts];
};
struct Mask {
  hn::Mask<FloatTag> part[kParts];
};

// Calls f(integral_constant) for 0 .. kCount - 1: shifts of fields must be constants.
template <uint32_t kCount, class F>
HWY_INLINE void for_fields(F f) {
  [&]<uint32_t... kField>(std::integer_sequence<uint32_t, kField...>) __attribute__((always_inline)) {
    (f(std::integral_constant<uint32_t, kField>{}), ...);
  }
  (std::make_integer_sequence<uint32_t, kCount>{});
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
