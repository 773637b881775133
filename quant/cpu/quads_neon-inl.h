// Dot-quads with the dot product of AArch64 (sdot): one instruction multiplies four signed with four signed
// bytes in each of four lanes and adds the products to 32 bits, without saturation.
//
// Both operands being signed, levels carry no offset: tables hold them as they are, and codes of 8 bits turn
// into levels by flipping their highest bit. Queries and weights both have two signed bytes,
// q = 256 high + low. On x86, where a weight's byte is unsigned, one serves 4 bits and below. Signed it has 7
// bits, and rounding the weights of 64 tokens to 127 steps costs 1.4 % of an output (scores spread by two
// nats): more than kAttendErrorBound. Every sum is exact: |sum| <= 128 * 32512 * 256 < 2^31. Thread safety:
// pure functions.
#pragma once

#include "quant/codec.h"
#include "quant/cpu/form-inl.h"
#include "quant/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Sixteen lanes take four registers, so the sums of two rows in two parts take sixteen of the 32.
inline constexpr uint32_t kMaxBlockRows = 2;
inline constexpr uint32_t kSumRegisters = 8;  // one row then takes one column: codes need the others
inline constexpr uint32_t kLeastColumns = 1;
inline constexpr int32_t kKeyBias = 0;
inline constexpr float kQueryTop = 32512.0F;  // 127 * 256: the high byte stays within a signed byte
inline constexpr int32_t kQueryBias = 0;      // added to integers of queries for store_query

// Bytes of levels by code; a plain form uses the first sixteen.
struct LevelBytes {
  alignas(64) uint8_t bytes[64];
};

// Sixteen lanes of a quad.
struct Levels {
  int8x16_t part[kParts];
};

// Sixteen lanes of codes as loaded.
struct CodeBytes {
  uint8x16_t part[kParts];

  HWY_INLINE static CodeBytes load(const uint8_t* from) {
    CodeBytes out;
    for (uint32_t i = 0; i < kParts; ++i) out.part[i] = vld1q_u8(from + size_t{16} * i);
    return out;
  }
};

// Each byte by kCount bits; an instruction shifts by one at least.
template <uint32_t kCount>
HWY_INLINE uint8x16_t shift_bytes_right(uint8x16_t bytes) {
  if constexpr (kCount == 0)
    return bytes;
  else
    return vshrq_n_u8(bytes, kCount);
}

// The codes of kQuads quads in sixteen lanes.
template <Side kSide, Form kForm>
struct Codes {
  static constexpr uint32_t kBits = kForm.bits;
  static constexpr uint32_t kQuads = 8 / kBits;
  CodeBytes bytes;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    return {CodeBytes::load(codes + (size_t{step} * lanes + lane) * 4)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    HWY_NAMESPACE::prefetch(codes + (size_t{step} * lanes + lane) * 4);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(int8x16_t table) const {
    Levels out;
    for (uint32_t i = 0; i < kParts; ++i) {
      if constexpr (kBits == 8) {
        out.part[i] = vreinterpretq_s8_u8(veorq_u8(bytes.part[i], vdupq_n_u8(0x80)));
      } else {
        const uint8x16_t shifted = shift_bytes_right<kField * kBits>(bytes.part[i]);
        out.part[i] = vqtbl1q_s8(table, vandq_u8(shifted, vdupq_n_u8((1U << kBits) - 1)));
      }
    }
    return out;
  }
};

// Two planes: two sets of two-bit fields and one of single bits serve eight quads.
template <Side kSide>
struct Codes<kSide, Form{3}> {
  static constexpr uint32_t kQuads = 8;
  CodeBytes low[2];
  CodeBytes high;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    return {{CodeBytes::load(codes + (size_t{2 * step} * lanes + lane) * 4),
             CodeBytes::load(codes + (size_t{2 * step + 1} * lanes + lane) * 4)},
            CodeBytes::load(high_plane + (size_t{step} * lanes + lane) * 4)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    HWY_NAMESPACE::prefetch(codes + (size_t{2 * step} * lanes + lane) * 4);
    HWY_NAMESPACE::prefetch(codes + (size_t{2 * step + 1} * lanes + lane) * 4);
    HWY_NAMESPACE::prefetch(high_plane + (size_t{step} * lanes + lane) * 4);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(int8x16_t table) const {
    Levels out;
    for (uint32_t i = 0; i < kParts; ++i) {
      const uint8x16_t two = shift_bytes_right<kField % 4 * 2>(low[kField / 4].part[i]);
      uint8x16_t one = high.part[i];  // its bit kField to bit 2
      if constexpr (kField > 2) one = vshrq_n_u8(one, kField - 2);
      if constexpr (kField < 2) one = vshlq_n_u8(one, 2 - kField);
      const uint8x16_t code = vbslq_u8(vdupq_n_u8(3), two, one);
      out.part[i] = vqtbl1q_s8(table, vandq_u8(code, vdupq_n_u8(7)));
    }
    return out;
  }
};

// What chains go on from: the bytes before those of `step`. Before the first stand the last, each of the
// lane's next byte (FORMATS.md, "Trellis codecs").
HWY_INLINE CodeBytes load_before(const uint8_t* plane, uint32_t step, uint32_t steps, uint32_t lane,
                                 uint32_t lanes) {
  CodeBytes out = CodeBytes::load(plane + (size_t{step == 0 ? steps - 1 : step - 1} * lanes + lane) * 4);
  if (step > 0) return out;
  for (uint8x16_t& part : out.part) {
    const uint32x4_t four = vreinterpretq_u32_u8(part);
    part = vreinterpretq_u8_u32(vsriq_n_u32(vshlq_n_u32(four, 8), four, 24));
  }
  return out;
}

// Bits kFrom.. of each byte moved to bit 0, upwards where kFrom is negative.
template <int kFrom>
HWY_INLINE uint8x16_t move_field(uint8x16_t bytes) {
  if constexpr (kFrom > 0) return vshrq_n_u8(bytes, kFrom);
  if constexpr (kFrom < 0) return vshlq_n_u8(bytes, -kFrom);
  return bytes;
}

// The window that ends with the kField-th code of kBits in `bytes`, from bit 0 on; above it is junk.
template <uint32_t kBits, uint32_t kWindow, uint32_t kField>
HWY_INLINE uint8x16_t window(uint8x16_t bytes, uint8x16_t before) {
  constexpr int kFrom = static_cast<int>((kField + 1) * kBits) - static_cast<int>(kWindow);
  if constexpr (kFrom >= 0)
    return move_field<kFrom>(bytes);
  else
    return vorrq_u8(move_field<8 + kFrom>(before), move_field<kFrom>(bytes));
}

HWY_INLINE int8x16_t trellis_levels(int8x16x4_t table, uint8x16_t index) {
  return vqtbl4q_s8(table, vandq_u8(index, vdupq_n_u8(kTrellisLevels - 1)));
}

// Along a trellis.
template <Side kSide, Form kForm>
requires(kForm.trellis) struct Codes<kSide, kForm> {
  static constexpr uint32_t kQuads = 8 / kForm.bits;
  CodeBytes bytes;
  CodeBytes before;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t steps, uint32_t lane, uint32_t lanes) {
    return {CodeBytes::load(codes + (size_t{step} * lanes + lane) * 4),
            load_before(codes, step, steps, lane, lanes)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* /*high_plane*/, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    HWY_NAMESPACE::prefetch(codes + (size_t{step} * lanes + lane) * 4);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(int8x16x4_t table) const {
    Levels out;
    for (uint32_t i = 0; i < kParts; ++i) {
      out.part[i] = trellis_levels(table, window<kForm.bits, 6, kField>(bytes.part[i], before.part[i]));
    }
    return out;
  }
};

// Of 3 bits the window slides over the plane of single bits.
template <Side kSide>
struct Codes<kSide, Form{3, true}> {
  static constexpr uint32_t kQuads = 8;
  Codes<kSide, Form{3}> plain;
  CodeBytes before;

  HWY_INLINE static Codes load(const uint8_t* codes, const uint8_t* high_plane, uint32_t step, uint32_t steps,
                               uint32_t lane, uint32_t lanes) {
    return {Codes<kSide, Form{3}>::load(codes, high_plane, step, steps, lane, lanes),
            load_before(high_plane, step, steps, lane, lanes)};
  }
  HWY_INLINE static void prefetch(const uint8_t* codes, const uint8_t* high_plane, uint32_t step,
                                  uint32_t lane, uint32_t lanes) {
    Codes<kSide, Form{3}>::prefetch(codes, high_plane, step, lane, lanes);
  }
  template <uint32_t kField>
  HWY_INLINE Levels levels(int8x16x4_t table) const {
    constexpr int kRest = static_cast<int>(kField % 4 * 2) - 4;  // to bits 4 and 5
    Levels out;
    for (uint32_t i = 0; i < kParts; ++i) {
      const uint8x16_t history = window<1, 4, kField>(plain.high.part[i], before.part[i]);
      const uint8x16_t index =
          vbslq_u8(vdupq_n_u8(0x0F), history, move_field<kRest>(plain.low[kField / 4].part[i]));
      out.part[i] = trellis_levels(table, index);
    }
    return out;
  }
};

// Byte kIndex of each lane of levels.
template <uint32_t kIndex>
HWY_INLINE Ints key_level(const Levels& levels) {
  Ints out;
  for (uint32_t i = 0; i < kParts; ++i) {
    // The byte to the top, then down again with its sign.
    const int32x4_t top = vshlq_n_s32(vreinterpretq_s32_s8(levels.part[i]), 24 - 8 * kIndex);
    out.part[i].raw = vshrq_n_s32(top, 24);
  }
  return out;
}

template <Form kForm>
HWY_INLINE auto load_table(const LevelBytes& table) {
  const auto* levels = reinterpret_cast<const int8_t*>(table.bytes);
  if constexpr (kForm.trellis)
    return vld1q_s8_x4(levels);
  else
    return vld1q_s8(levels);
}

// Queries and weights are held alike: an array of quads' high bytes, then one of low bytes. Precise or not,
// weights have 15 bits.
template <Side kSide, bool kPrecise>
struct Product {
  static constexpr uint32_t kParts = 2;
  static constexpr float kWeightTop = kQueryTop;  // the largest is known within 0.2 %, and .4 % fit above

  struct Operand {
    int8x16_t high;
    int8x16_t low;
  };
  struct Sum {
    int32x4_t high[HWY_NAMESPACE::kParts];
    int32x4_t low[HWY_NAMESPACE::kParts];
  };

  HWY_INLINE static Operand broadcast(const int32_t* operands, uint32_t quad, uint32_t quads) {
    return {vreinterpretq_s8_s32(vdupq_n_s32(operands[quad])),
            vreinterpretq_s8_s32(vdupq_n_s32(operands[quads + quad]))};
  }
  HWY_INLINE static Sum start(int32_t offset) {
    Sum sum;
    for (int32x4_t& part : sum.high) part = vdupq_n_s32(0);
    for (int32x4_t& part : sum.low) part = vdupq_n_s32(offset);
    return sum;
  }
  HWY_INLINE static void add(Sum& sum, const Levels& levels, const Operand& operand) {
    for (uint32_t i = 0; i < HWY_NAMESPACE::kParts; ++i) {
      sum.high[i] = vdotq_s32(sum.high[i], levels.part[i], operand.high);
      sum.low[i] = vdotq_s32(sum.low[i], levels.part[i], operand.low);
    }
  }
  HWY_INLINE static Ints total(const Sum& sum) {
    Ints out;
    for (uint32_t i = 0; i < HWY_NAMESPACE::kParts; ++i) {
      out.part[i].raw = vaddq_s32(vshlq_n_s32(sum.high[i], 8), sum.low[i]);
    }
    return out;
  }
};

// Sixteen elements from `first` on as operands. |v| < 127.5 * 256.
HWY_INLINE void store_operands(Ints v, int32_t* operands, uint32_t first, uint32_t quads) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(operands) + first;
  store_low_bytes(shift_right(v + splat(128), 8), bytes);
  store_low_bytes(v, bytes + size_t{4} * quads);
}
HWY_INLINE void store_query(Ints low, Ints high, int32_t* operands, uint32_t first, uint32_t quads) {
  store_operands(low, operands, first, quads);
  store_operands(high, operands, first + kLanes, quads);
}
template <bool kPrecise>
HWY_INLINE void store_weights(Ints weights, int32_t* operands, uint32_t first, uint32_t quads) {
  store_operands(weights, operands, first, quads);
}

// sum of q * mean code over a row's channels, left in four partial sums.
HWY_INLINE PartialSums query_dot_means(const int32_t* operands, const uint8_t* mean_codes, uint32_t quads) {
  const auto* bytes = reinterpret_cast<const int8_t*>(operands);
  int32x4_t high = vdupq_n_s32(0);
  int32x4_t low = vdupq_n_s32(0);
  for (size_t channel = 0; channel < size_t{4} * quads; channel += 16) {
    const int8x16_t means = vreinterpretq_s8_u8(vld1q_u8(mean_codes + channel));
    high = vdotq_s32(high, means, vld1q_s8(bytes + channel));
    low = vdotq_s32(low, means, vld1q_s8(bytes + size_t{4} * quads + channel));
  }
  return vaddq_s32(vshlq_n_s32(high, 8), low);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
