// Arithmetic in sixteen lanes.
//
// All float arithmetic of this folder is written in these lanes, so that its order, and with it every byte of
// a page, is the same for all instruction sets. Thread safety: pure functions.
#pragma once

#if defined(QUIRE_SIMD_NEON)
#include "quant/cpu/native_neon-inl.h"
#else
#include "quant/cpu/native_x86-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {
// A line that is wanted soon, to the second level of cache.
HWY_INLINE void prefetch(const void* line) { __builtin_prefetch(line, 0, 2); }

HWY_INLINE Floats load(const float* from) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::LoadU(FloatTag(), from + i * kPartLanes);
  return out;
}
HWY_INLINE void store(Floats v, float* to) {
  for (uint32_t i = 0; i < kParts; ++i) hn::StoreU(v.part[i], FloatTag(), to + i * kPartLanes);
}
HWY_INLINE Ints load(const int32_t* from) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::LoadU(IntTag(), from + i * kPartLanes);
  return out;
}
HWY_INLINE void store(Ints v, int32_t* to) {
  for (uint32_t i = 0; i < kParts; ++i) hn::StoreU(v.part[i], IntTag(), to + i * kPartLanes);
}
HWY_INLINE Floats splat(float x) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Set(FloatTag(), x);
  return out;
}
HWY_INLINE Ints splat(int32_t x) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Set(IntTag(), x);
  return out;
}

HWY_INLINE Floats operator+(Floats a, Floats b) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Add(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Floats operator-(Floats a, Floats b) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Sub(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Floats operator*(Floats a, Floats b) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Mul(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Floats operator/(Floats a, Floats b) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Div(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints operator+(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Add(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints operator-(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Sub(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints operator*(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Mul(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints operator&(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::And(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints operator|(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Or(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints operator^(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Xor(a.part[i], b.part[i]);
  return out;
}
// The same count for all lanes. shift_right keeps the sign.
HWY_INLINE Ints shift_left(Ints a, int count) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::ShiftLeftSame(a.part[i], count);
  return out;
}
HWY_INLINE Ints shift_right(Ints a, int count) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::ShiftRightSame(a.part[i], count);
  return out;
}

// Lane by lane; keeps the sign. counts: 0..31.
HWY_INLINE Ints shift_right_each(Ints a, Ints counts) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Shr(a.part[i], counts.part[i]);
  return out;
}

// a * b + c, rounded once. Never where bytes of a page depend on it.
HWY_INLINE Floats mul_add(Floats a, Floats b, Floats c) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::MulAdd(a.part[i], b.part[i], c.part[i]);
  return out;
}
HWY_INLINE Floats max(Floats a, Floats b) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Max(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Floats min(Floats a, Floats b) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Min(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints max(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Max(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Ints min(Ints a, Ints b) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Min(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Floats abs(Floats a) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Abs(a.part[i]);
  return out;
}
HWY_INLINE Floats sqrt(Floats a) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Sqrt(a.part[i]);
  return out;
}
HWY_INLINE float square_root(float a) { return hn::GetLane(hn::Sqrt(hn::Set(hn::FixedTag<float, 1>(), a))); }
HWY_INLINE Floats round(Floats a) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Round(a.part[i]);
  return out;
}
HWY_INLINE Floats ceil(Floats a) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Ceil(a.part[i]);
  return out;
}
HWY_INLINE Floats to_floats(Ints a) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::ConvertTo(FloatTag(), a.part[i]);
  return out;
}
HWY_INLINE Ints bits_of(Floats a) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::BitCast(IntTag(), a.part[i]);
  return out;
}
HWY_INLINE Floats floats_from_bits(Ints a) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::BitCast(FloatTag(), a.part[i]);
  return out;
}

HWY_INLINE Mask operator<(Floats a, Floats b) {
  Mask out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::Lt(a.part[i], b.part[i]);
  return out;
}
HWY_INLINE Mask operator==(Ints a, Ints b) {
  Mask out;
  for (uint32_t i = 0; i < kParts; ++i)
    out.part[i] = hn::RebindMask(FloatTag(), hn::Eq(a.part[i], b.part[i]));
  return out;
}
HWY_INLINE Mask operator<(Ints a, Ints b) {
  Mask out;
  for (uint32_t i = 0; i < kParts; ++i)
    out.part[i] = hn::RebindMask(FloatTag(), hn::Lt(a.part[i], b.part[i]));
  return out;
}
HWY_INLINE Floats select(Mask where, Floats yes, Floats no) {
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) out.part[i] = hn::IfThenElse(where.part[i], yes.part[i], no.part[i]);
  return out;
}
HWY_INLINE Ints select(Mask where, Ints yes, Ints no) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i)
    out.part[i] = hn::IfThenElse(hn::RebindMask(IntTag(), where.part[i]), yes.part[i], no.part[i]);
  return out;
}
HWY_INLINE bool all_true(Mask mask) {
  bool all = true;
  for (uint32_t i = 0; i < kParts; ++i) all &= hn::AllTrue(FloatTag(), mask.part[i]);
  return all;
}

HWY_INLINE bool any_true(Mask mask) {
  bool any = false;
  for (uint32_t i = 0; i < kParts; ++i) any |= !hn::AllFalse(FloatTag(), mask.part[i]);
  return any;
}

// 0, 1, .. 15.
HWY_INLINE Ints lane_index() {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i)
    out.part[i] = hn::Iota(IntTag(), static_cast<int32_t>(i * kPartLanes));
  return out;
}

HWY_INLINE float largest_lane(Floats v) {
  hn::Vec<FloatTag> all = v.part[0];
  for (uint32_t i = 1; i < kParts; ++i) all = hn::Max(all, v.part[i]);
  return hn::GetLane(hn::MaxOfLanes(FloatTag(), all));
}
// n: a multiple of 32. kAhead: floats that are asked for so far ahead of those that are read, also behind x.
template <size_t kAhead = 0>
HWY_INLINE float largest_magnitude(const float* x, size_t n) {
  Floats top = splat(0.0F);
  Floats other = splat(0.0F);  // one maximum does not wait for the one before it
  for (size_t i = 0; i < n; i += 2 * kLanes) {
    if constexpr (kAhead > 0) {
      prefetch(x + i + kAhead);
      prefetch(x + i + kAhead + kLanes);
    }
    top = max(top, abs(load(x + i)));
    other = max(other, abs(load(x + i + kLanes)));
  }
  return largest_lane(max(top, other));
}
// Of a section that comes from memory, where the next one lies behind it most often: a processor by itself
// reads no further ahead than to the end of a page of 4 KiB.
inline constexpr size_t kInputAhead = 4096 / sizeof(float);
HWY_INLINE float largest_input(const float* x, size_t n) { return largest_magnitude<kInputAhead>(x, n); }
// A line of the section behind this one of n floats: asked for while codes are made, when nothing else comes
// from memory.
HWY_INLINE void prefetch_behind(const float* x, size_t n, size_t at) { prefetch(x + n + at); }
HWY_INLINE float smallest_lane(Floats v) {
  hn::Vec<FloatTag> all = v.part[0];
  for (uint32_t i = 1; i < kParts; ++i) all = hn::Min(all, v.part[i]);
  return hn::GetLane(hn::MinOfLanes(FloatTag(), all));
}

// Sixteen narrower numbers in memory.
HWY_INLINE Ints load_u8(const uint8_t* from) {
  const hn::Rebind<uint8_t, FloatTag> bytes;
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    out.part[i] = hn::PromoteTo(IntTag(), hn::LoadU(bytes, from + i * kPartLanes));
  }
  return out;
}
HWY_INLINE Ints load_s8(const uint8_t* from) {
  const hn::Rebind<uint8_t, FloatTag> bytes;
  const hn::Rebind<int8_t, FloatTag> signed_bytes;
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    const auto narrow = hn::BitCast(signed_bytes, hn::LoadU(bytes, from + i * kPartLanes));
    out.part[i] = hn::PromoteTo(IntTag(), narrow);
  }
  return out;
}
HWY_INLINE Ints load_u16(const uint16_t* from) {
  const hn::Rebind<uint16_t, FloatTag> halves;
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    out.part[i] = hn::PromoteTo(IntTag(), hn::LoadU(halves, from + i * kPartLanes));
  }
  return out;
}
HWY_INLINE void store_u16(Ints v, uint16_t* to) {
  const hn::Rebind<uint16_t, FloatTag> halves;
  for (uint32_t i = 0; i < kParts; ++i) {
    hn::StoreU(hn::DemoteTo(halves, v.part[i]), halves, to + i * kPartLanes);
  }
}
HWY_INLINE Floats load_bf16(const uint16_t* from) { return floats_from_bits(shift_left(load_u16(from), 16)); }
HWY_INLINE Floats load_f16(const uint16_t* from) {
  const hn::Rebind<hwy::float16_t, FloatTag> halves;
  const hn::Rebind<uint16_t, FloatTag> bits;
  Floats out;
  for (uint32_t i = 0; i < kParts; ++i) {
    out.part[i] = hn::PromoteTo(FloatTag(), hn::BitCast(halves, hn::LoadU(bits, from + i * kPartLanes)));
  }
  return out;
}
HWY_INLINE void store_f16(Floats v, uint16_t* to) {
  const hn::Rebind<hwy::float16_t, FloatTag> halves;
  const hn::Rebind<uint16_t, FloatTag> bits;
  for (uint32_t i = 0; i < kParts; ++i) {
    hn::StoreU(hn::BitCast(bits, hn::DemoteTo(halves, v.part[i])), bits, to + i * kPartLanes);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
