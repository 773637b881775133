// The rotation of rot codecs: x = H (diag x), row by row. FORMATS.md "Rotation" gives the order of the
// butterflies. Thread safety: pure functions on the caller's memory.
#pragma once

#include "quant/cpu/lanes-inl.h"
#include "quant/hadamard.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Lane i becomes lane i ^ kDistance; kDistance is 1, 2, 4 or 8.
template <uint32_t kDistance>
HWY_INLINE Floats exchange(Floats x) {
  if constexpr (kDistance >= kPartLanes) {
    Floats out;
    for (uint32_t i = 0; i < kParts; ++i) out.part[i] = x.part[i ^ (kDistance / kPartLanes)];
    return out;
  } else {
    alignas(64) int32_t index[kPartLanes];
    for (uint32_t i = 0; i < kPartLanes; ++i) index[i] = static_cast<int32_t>(i ^ kDistance);
    const auto lanes = hn::SetTableIndices(FloatTag(), index);
    Floats out;
    for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::TableLookupLanes(x.part[i], lanes);
    return out;
  }
}

// Butterflies within sixteen lanes: (a, b) becomes (a + b, a - b), where b is kDistance lanes above a.
template <uint32_t kDistance>
HWY_INLINE Floats butterfly(Floats x) {
  constexpr int32_t kSignBit = static_cast<int32_t>(0x80000000U);
  const Mask upper = splat(0) < (lane_index() & splat(static_cast<int32_t>(kDistance)));
  const Ints flipped = select(upper, bits_of(x) ^ splat(kSignBit), bits_of(x));
  return exchange<kDistance>(x) + floats_from_bits(flipped);
}

inline void rotate_block(float* x, uint32_t block) {
  for (uint32_t i = 0; i < block; i += kLanes) {
    store(butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i))))), x + i);
  }
  for (uint32_t distance = kLanes; distance < block; distance *= 2) {
    for (uint32_t start = 0; start < block; start += 2 * distance) {
      for (uint32_t i = start; i < start + distance; i += kLanes) {
        const Floats a = load(x + i);
        const Floats b = load(x + i + distance);
        store(a + b, x + i);
        store(a - b, x + i + distance);
      }
    }
  }
}

inline void rotate_rows(float* x, size_t rows, uint32_t dim, const float* diag) {
  const uint32_t block = hadamard_block(dim);
  const Floats norm = splat(hadamard_norm(block));
  for (size_t row = 0; row < rows; ++row, x += dim) {
    for (uint32_t c = 0; c < dim; c += kLanes) {
      Floats v = min(max(load(x + c), splat(-kRotationClamp)), splat(kRotationClamp));
      if (diag != nullptr) v = v * load(diag + c);
      store(v, x + c);
    }
    for (uint32_t c = 0; c < dim; c += block) rotate_block(x + c, block);
    for (uint32_t c = 0; c < dim; c += kLanes) store(load(x + c) * norm, x + c);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
