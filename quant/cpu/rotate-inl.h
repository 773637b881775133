// The rotation of rot codecs: H (diag x), row by row. FORMATS.md "Rotation" gives the order of the
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
// A product with 1 or -1 is exact, so the sum is rounded as an addition is.
template <uint32_t kDistance>
HWY_INLINE Floats butterfly(Floats x) {
  alignas(64) float signs[kLanes];
  for (uint32_t i = 0; i < kLanes; ++i) signs[i] = (i & kDistance) == 0 ? 1.0F : -1.0F;
  return mul_add(x, load(signs), exchange<kDistance>(x));
}

// All butterflies of one block, in registers where there are enough of them.
template <uint32_t kVectors>
HWY_INLINE void mix_block(Floats (&v)[kVectors]) {
#pragma GCC unroll 16
  for (Floats& x : v) x = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(x))));
#pragma GCC unroll 4
  for (uint32_t distance = 1; distance < kVectors; distance *= 2) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVectors; ++i) {
      if ((i & distance) != 0) continue;
      const Floats a = v[i];
      const Floats b = v[i + distance];
      v[i] = a + b;
      v[i + distance] = a - b;
    }
  }
}

// Rows from memory are wanted this early: the processor by itself reads no further ahead than to the end of a
// page of 4 KiB.
inline constexpr uint32_t kFloatsAhead = 1024;

template <uint32_t kBlock>
HWY_INLINE void rotate_block(const float* in, const float* diag, float* out) {
  constexpr uint32_t kVectors = kBlock / kLanes;
  Floats v[kVectors];
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kVectors; ++i) {
    prefetch(in + i * kLanes + kFloatsAhead);
    v[i] = min(max(load(in + i * kLanes), splat(-kRotationClamp)), splat(kRotationClamp));
    if (diag != nullptr) v[i] = v[i] * load(diag + i * kLanes);
  }
  mix_block(v);
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kVectors; ++i) store(v[i] * splat(hadamard_norm(kBlock)), out + i * kLanes);
}

// A call of its own, so that attention over pre_rope pages holds no copy of it.
template <uint32_t kBlock>
HWY_NOINLINE void rotate_blocks(const float* in, size_t rows, uint32_t dim, const float* diag, float* out) {
  for (size_t row = 0; row < rows; ++row) {
    for (uint32_t c = 0; c < dim; c += kBlock) {
      rotate_block<kBlock>(in + row * dim + c, diag == nullptr ? nullptr : diag + c, out + row * dim + c);
    }
  }
}

inline void rotate_rows(const float* in, size_t rows, uint32_t dim, const float* diag, float* out) {
  switch (hadamard_block(dim)) {
    case 32:
      return rotate_blocks<32>(in, rows, dim, diag, out);
    case 64:
      return rotate_blocks<64>(in, rows, dim, diag, out);
    case 128:
      return rotate_blocks<128>(in, rows, dim, diag, out);
    default:
      return rotate_blocks<256>(in, rows, dim, diag, out);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
