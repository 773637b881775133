// What sixteen lanes need instructions of AArch64 for; the same functions as native_x86-inl.h.
//
// Reductions have the same tree for every row, so a row's bits do not depend on its place in a block. Thread
// safety: pure functions.
#pragma once

#include "quant/cpu/vectors-inl.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Ties to even. |a| < 2^31: Highway's NearestInt would spend instructions on larger values.
HWY_INLINE Ints to_ints(Floats a) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i].raw = vcvtnq_s32_f32(a.part[i].raw);
  return out;
}

// The low byte of each lane.
HWY_INLINE void store_low_bytes(Ints v, uint8_t* to) {
  const int16x8_t first = vcombine_s16(vmovn_s32(v.part[0].raw), vmovn_s32(v.part[1].raw));
  const int16x8_t second = vcombine_s16(vmovn_s32(v.part[2].raw), vmovn_s32(v.part[3].raw));
  vst1q_u8(to, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second))));
}

// table[index mod 16], 16 entries: their 64 bytes are what one byte lookup reaches.
HWY_INLINE Floats lookup(const float* table, Ints index) {
  const uint8x16x4_t entries = vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table));
  const int32x4_t first_bytes = vdupq_n_s32(0x03020100);
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) {
    const int32x4_t entry = vandq_s32(index.part[i].raw, vdupq_n_s32(15));
    const int32x4_t bytes = vmlaq_n_s32(first_bytes, entry, 0x04040404);
    out.part[i].raw = vreinterpretq_f32_u8(vqtbl4q_u8(entries, vreinterpretq_u8_s32(bytes)));
  }
  return out;
}

// level^2 - 2 * level * y in units of 2^-bits.
struct LevelCost {
  int32_t slope;
  int32_t base;
};
constexpr LevelCost level_cost(int32_t level, uint32_t bits) {
  return {-level * (1 << (bits + 1)), level * level * (1 << bits)};
}
template <uint32_t kBits>
HWY_INLINE Ints target_of(Ints y) {
  return y;
}
template <uint32_t kBits>
HWY_INLINE Ints add_cost(Ints cost, Ints target, const LevelCost& level) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    const int32x4_t base = vaddq_s32(cost.part[i].raw, vdupq_n_s32(level.base));
    out.part[i].raw = vmlaq_n_s32(base, target.part[i].raw, level.slope);
  }
  return out;
}

// from[index] of `count` entries.
HWY_INLINE Floats pick(const float* from, uint32_t /*count*/, Ints index) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) {
    float32x4_t four = vdupq_n_f32(from[vgetq_lane_s32(index.part[i].raw, 0)]);
    four = vsetq_lane_f32(from[vgetq_lane_s32(index.part[i].raw, 1)], four, 1);
    four = vsetq_lane_f32(from[vgetq_lane_s32(index.part[i].raw, 2)], four, 2);
    out.part[i].raw = vsetq_lane_f32(from[vgetq_lane_s32(index.part[i].raw, 3)], four, 3);
  }
  return out;
}

// Levels of a trellis by index, with their sign.
struct LevelLookup {
  int8x16x4_t table;
  HWY_INLINE explicit LevelLookup(const TrellisLevels& levels) : table(vld1q_s8_x4(levels.data())) {}
  HWY_INLINE Ints of(Ints index) const {
    Ints out;
    for (uint32_t i = 0; i < kParts; ++i) {
      const int8x16_t bytes = vqtbl4q_s8(table, vreinterpretq_u8_s32(index.part[i].raw));
      out.part[i].raw = vshrq_n_s32(vshlq_n_s32(vreinterpretq_s32_s8(bytes), 24), 24);
    }
    return out;
  }
};

struct AddOp {
  HWY_INLINE static float32x4_t apply(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
  HWY_INLINE static float32x4_t neighbours(float32x4_t a, float32x4_t b) { return vpaddq_f32(a, b); }
};
struct MaxOp {
  HWY_INLINE static float32x4_t apply(float32x4_t a, float32x4_t b) { return vmaxnmq_f32(a, b); }
  HWY_INLINE static float32x4_t neighbours(float32x4_t a, float32x4_t b) { return vpmaxnmq_f32(a, b); }
};

// Sixteen lanes to four: i, i + 8, i + 4 and i + 12, the halves first.
template <class Op>
HWY_INLINE float32x4_t fold(Floats v) {
  return Op::apply(Op::apply(v.part[0].raw, v.part[2].raw), Op::apply(v.part[1].raw, v.part[3].raw));
}

// Lane i is the sum or maximum of the sixteen lanes of v[i]; lanes without a row hold copies.
template <class Op, int kRows>
HWY_INLINE Floats reduce_rows(const Floats (&v)[kRows]) {
  Floats out;
  for (int i = 0; i < 4; ++i) {
    const auto folded = [&](int row) __attribute__((always_inline)) {
      return fold<Op>(v[(4 * i + row) % kRows]);
    };
    const float32x4_t low = Op::neighbours(folded(0), folded(1));
    out.part[i].raw = Op::neighbours(low, Op::neighbours(folded(2), folded(3)));
  }
  return out;
}

// Sums of integers on their way to one lane per row.
using PartialSums = int32x4_t;
HWY_INLINE PartialSums fold_sum(Ints v) {
  return vaddq_s32(vaddq_s32(v.part[0].raw, v.part[1].raw), vaddq_s32(v.part[2].raw, v.part[3].raw));
}
template <int kRows>
HWY_INLINE Ints sum_rows(const PartialSums (&v)[kRows]) {
  Ints out;
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * i;
    out.part[i].raw = vpaddq_s32(vpaddq_s32(v[row % kRows], v[(row + 1) % kRows]),
                                 vpaddq_s32(v[(row + 2) % kRows], v[(row + 3) % kRows]));
  }
  return out;
}

// The sum of sixteen partial sums, in FORMATS.md's order.
HWY_INLINE float sum16(Floats p) {
  const float32x4_t four = fold<AddOp>(p);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
