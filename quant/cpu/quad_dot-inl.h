// The integer product of both sides: sums over quads of codes' levels times an operand, which vectors
// broadcast.
//
// Keys: lanes are tokens, quads run over channels, the operand is the query. Values: lanes are channels,
// quads run over tokens, the operand is the weights. Thread safety: pure functions.
#pragma once

#if defined(QUIRE_SIMD_AVX512)
#include "quant/cpu/quads_avx512-inl.h"
#if defined(QUIRE_SIMD_AMX)
#include "quant/cpu/matrix_dot-inl.h"
#endif
#elif defined(QUIRE_SIMD_AVX2)
#include "quant/cpu/quads_avx2-inl.h"
#else
#include "quant/cpu/quads_neon-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Whether products are those of matrix_dot-inl.h, which takes levels alone.
#if defined(QUIRE_SIMD_AMX)
inline constexpr bool kMatrices = true;
#else
inline constexpr bool kMatrices = false;
#endif

struct QuadSource {
  const uint8_t* codes;
  const uint8_t*
      ahead;  // where the same codes of a later section lie: prefetched line by line as these are read
  size_t high_plane;  // offset of the 1-bit plane of 3-bit codes
  const LevelBytes* table;
};

// kRows rows, kColumns columns of lanes at a time; kColumns * 16 divides lanes. Prefetches the columns whose
// number leaves kShare when divided by kShares.
template <Side kSide, Form kForm, bool kPrecise, int kRows, uint32_t kColumns, uint32_t kShare,
          uint32_t kShares, class Start, class Finish>
HWY_INLINE void quad_dot_of_rows(const QuadSource& source, uint32_t quads, uint32_t lanes,
                                 const int32_t* operands, Start start, Finish finish) {
  using Step = Codes<kSide, kForm>;
  using Dot = Product<kSide, kPrecise>;
  const auto table = load_table<kForm>(*source.table);
  const uint8_t* high_plane = source.codes + source.high_plane;
  const uint8_t* high_plane_ahead = source.ahead + source.high_plane;
  for (uint32_t lane = 0; lane < lanes; lane += kColumns * kLanes) {
    typename Dot::Sum sums[kRows][kColumns];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (uint32_t k = 0; k < kColumns; ++k) sums[r][k] = Dot::start(start(r));
    }
    const uint32_t steps = quads / Step::kQuads;
    for (uint32_t step = 0; step < steps; ++step) {
      Step codes[kColumns];
#pragma GCC unroll 8
      for (uint32_t k = 0; k < kColumns; ++k) {
        codes[k] = Step::load(source.codes, high_plane, step, steps, lane + k * kLanes, lanes);
        if (k % kShares == kShare) {
          Step::prefetch(source.ahead, high_plane_ahead, step, lane + k * kLanes, lanes);
        }
      }
      for_fields<Step::kQuads>([&](auto field) __attribute__((always_inline)) {
        Levels levels[kColumns];
#pragma GCC unroll 8
        for (uint32_t k = 0; k < kColumns; ++k) levels[k] = codes[k].template levels<field()>(table);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const int32_t* row = operands + static_cast<uint32_t>(r) * Dot::kParts * quads;
          const auto operand = Dot::broadcast(row, step * Step::kQuads + field(), quads);
#pragma GCC unroll 8
          for (uint32_t k = 0; k < kColumns; ++k) Dot::add(sums[r][k], levels[k], operand);
        }
      });
    }
#pragma GCC unroll 8
    for (uint32_t k = 0; k < kColumns; ++k) {
      Ints totals[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) totals[r] = Dot::total(sums[r][k]);
      finish(lane + k * kLanes, totals);
    }
  }
}

// Registers that the sums of so many rows take for each column.
template <Side kSide, bool kPrecise>
constexpr uint32_t sum_registers(int rows) {
  return static_cast<uint32_t>(rows) * sizeof(typename Product<kSide, kPrecise>::Sum) / HWY_MAX_BYTES;
}

// As many columns as leave the sums in registers.
template <Side kSide, bool kPrecise>
constexpr uint32_t columns_for(int rows, uint32_t lanes) {
  const uint32_t per_column = sum_registers<kSide, kPrecise>(rows);
  const uint32_t most = per_column >= kSumRegisters ? 1 : kSumRegisters / per_column;
  uint32_t columns = most > 4 ? 4 : most;
  while (lanes % (columns * kLanes) != 0) columns /= 2;
  return columns;
}

// As many rows as leave registers for kLeastColumns columns: with one, every operand would be loaded for one
// dot.
template <Side kSide, bool kPrecise>
constexpr int rows_together(int rows) {
  while (rows > 1 && sum_registers<kSide, kPrecise>(rows) * kLeastColumns > kSumRegisters) rows /= 2;
  return rows;
}

// Row r's operand stands at operands + r * kParts * quads and its sums start at start(r); finish(first, lane,
// sums) gets those of several rows, `first` and up, sixteen lanes at a time. kStep divides lanes.
template <Side kSide, Form kForm, bool kPrecise, int kRows, uint32_t kStep, class Start, class Finish>
HWY_INLINE void quad_dot(const QuadSource& source, uint32_t quads, uint32_t lanes, const int32_t* operands,
                         Start start, Finish finish) {
#if defined(QUIRE_SIMD_AMX)
  matrix_dot<kSide, kPrecise, kRows>(source.codes, quads, lanes, operands, start, finish);
#else
  constexpr int kTogether = rows_together<kSide, kPrecise>(kRows);
  constexpr uint32_t kColumns = columns_for<kSide, kPrecise>(kTogether, kStep);
  // All groups of rows read the same codes; each asks for its share of those ahead, so that memory is busy
  // all the time rather than more than it can be in the first group's.
  constexpr uint32_t kGroups = kRows / kTogether;
  constexpr uint32_t kShares = kColumns % kGroups == 0 ? kGroups : 1;
  for_fields<kGroups>([&](auto group) __attribute__((always_inline)) {
    constexpr int kFirst = static_cast<int>(group()) * kTogether;
    constexpr uint32_t kShare = kShares == 1 && kFirst > 0 ? kShares : group() % kShares;
    quad_dot_of_rows<kSide, kForm, kPrecise, kTogether, kColumns, kShare, kShares>(
        source, quads, lanes, operands + kFirst * Product<kSide, kPrecise>::kParts * quads,
        [&](int r) __attribute__((always_inline)) { return start(kFirst + r); },
        [&](uint32_t lane, const Ints(&sums)[kTogether])
            __attribute__((always_inline)) { finish(kFirst, lane, sums); });
  });
#endif
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
