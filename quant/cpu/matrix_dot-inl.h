// The integer product of both sides with AMX, in the place of quad_dot's. Levels are unpacked, [quads][lanes
// / 16] of four bytes each: so they are a product's second operand as they lie. A row's operand is one row of
// the first, or two where it has two parts: eight rows of queries fill it, as they stand in memory.
//
// A product takes sixteen cycles however many rows matter: 1024 multiply-accumulates a cycle, where two
// vpdpbusd have 128. Rows behind a block's own are junk from the same scratch, and so are their sums. Sums
// are those of quads_avx512-inl.h. Thread safety: pure functions.
#pragma once

#include "quant/cpu/matrix_registers.h"
#include "quant/cpu/quads_avx512-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kMatrixQuads = 16;  // that one product reduces

// Columns of sixteen lanes whose sums are gathered before they are used. More would not leave the first cache
// to the levels and the output.
inline constexpr uint32_t kMatrixColumns = 4;
inline constexpr uint32_t kMatrixLanes = kMatrixColumns * kLanes;

// operands: [kMatrixRows][quads]; sums: [kMatrixRows][kMatrixLanes]. level_stride: bytes from quad to quad.
template <Side kSide>
HWY_INLINE void multiply_lanes(const uint8_t* levels, size_t level_stride, const int32_t* operands,
                               uint32_t quads, int32_t* sums) {
  constexpr uint32_t kOperands = 0;
  constexpr uint32_t kFirstSum = kMatrixRegisters - kMatrixColumns;
  for_fields<kMatrixColumns>([](auto k) __attribute__((always_inline)) { clear_matrix<kFirstSum + k()>(); });
  for (uint32_t quad = 0; quad < quads; quad += kMatrixQuads) {
    load_matrix<kOperands>(operands + quad, quads * sizeof(int32_t));
    for_fields<kMatrixColumns>([&](auto k) __attribute__((always_inline)) {
      constexpr uint32_t kLevels = 1 + k() % 2;
      load_matrix<kLevels>(levels + quad * level_stride + k() * kMatrixRowBytes, level_stride);
      if constexpr (kSide == Side::kKey) {
        multiply_signed_unsigned<kFirstSum + k(), kOperands, kLevels>();
      } else {
        multiply_unsigned_signed<kFirstSum + k(), kOperands, kLevels>();
      }
    });
  }
  for_fields<kMatrixColumns>([&](auto k) __attribute__((always_inline)) {
    store_matrix<kFirstSum + k()>(sums + k() * kLanes, kMatrixLanes * sizeof(int32_t));
  });
}

// quads: a multiple of kMatrixQuads; lanes: of kMatrixLanes.
template <Side kSide, bool kPrecise, int kRows, class Start, class Finish>
HWY_INLINE void matrix_dot(const uint8_t* levels, uint32_t quads, uint32_t lanes, const int32_t* operands,
                           Start start, Finish finish) {
  using Dot = Product<kSide, kPrecise>;
  static_assert(kRows * Dot::kParts <= kMatrixRows);
  alignas(64) int32_t sums[kMatrixRows * kMatrixLanes];
  for (uint32_t lane = 0; lane < lanes; lane += kMatrixLanes) {
    multiply_lanes<kSide>(levels + size_t{4} * lane, size_t{4} * lanes, operands, quads, sums);
    for (uint32_t at = 0; at < kMatrixLanes; at += kLanes) {
      Ints totals[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const int32_t* row = sums + static_cast<uint32_t>(r) * Dot::kParts * kMatrixLanes + at;
        typename Dot::Sum sum;
        for (uint32_t i = 0; i < Dot::kParts; ++i) sum.part[i] = _mm512_load_si512(row + i * kMatrixLanes);
        totals[r] = Dot::total(sum) + splat(start(r));
      }
      finish(0, lane + at, totals);
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
