// pre_rope keys of 4 bits and below, but for trellis codecs, of the common shape, brought to the query's
// space in 16-bit integers and multiplied as such: what both families of codecs share. turn_uniform-inl.h and
// turn_rotated-inl.h turn the keys, turn_levels-inl.h the queries; rope_keys-inl.h does the same in f32 for
// all other codecs and shapes, at three times the cost.
//
// A lane holds two channels of a token, a *pair*. Uniform codecs: 0 and 2 or 1 and 3 of a quad (a *kind*), as
// the bytes of codes give them; channels c and c + 64, which a rotation mixes, stand in different registers.
// Rotated codecs: c and c + 64, for which lanes of two quads are brought together once; then all that the
// Hadamard matrix mixes before its last stage stands in different registers. Nothing is transposed.
//
// Keys are multiplied with the first block's rows as they are turned, so that additions and lookups pass
// beside the products. Other blocks find the turned keys in Tile::key_words.
//
// Fixed point. Every pair of channels (c, c + 64) has a factor of its own, which a rotation does not mix with
// others and which the query takes back, so a channel with large keys takes no bits from others.
// - Keys per channel: level * scale + mid, at most kUniformTop; turned, sqrt(2) of that fits 16 bits.
// - Rotated keys: 4 * (the first six of seven stages of H, on levels: exact), times the token's scale, plus
// the mean: at most kRotatedTop. The last stage, the balance and the turn are one 2 x 2 matrix for each token
// and pair, of whose rows the magnitudes sum to at most 1.
// - Queries: 16 bits, their magnitudes sum to kQuerySum at most, so no sum of products leaves 32 bits.
//
// Error: a key takes two to five roundings of half a step, of some 2^-10 (rotated) or 2^-13 (uniform) of a
// typical channel, a query one of 2^-10. Together scores are off by less than 1e-3 of their spread,
// 3e-3 where a few channels or tokens of rotated codes outdo all others: at a spread of two nats that is less
// than kAttendErrorBound. Thread safety: touches only the tile.
#pragma once

#include <algorithm>

#include "quant/cpu/float_dot-inl.h"
#include "quant/cpu/tile-inl.h"
#include "quant/cpu/words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kTurnTokens = CommonShape::kTokenStep;
inline constexpr uint32_t kTurnQuads = CommonShape::kDimStep / 4;
inline constexpr uint32_t kHalfQuads = kTurnQuads / 2;
inline constexpr uint32_t kHalfDim = CommonShape::kDimStep / 2;
inline constexpr float kUniformTop = 23000.0F;
inline constexpr float kOne = 32767.0F;       // cosines and sines
inline constexpr float kQuerySum = 65400.0F;  // rounding adds 64 at most; 2^31 / 32767 is 65537
inline constexpr float kWordTop = 32700.0F;

// The words' share of a true value that the products lack, as kOne is not quite 1.
inline constexpr float kUniformGain = kOne / 32768.0F;

// Whether this file serves a call in pre_rope space.
inline bool turns_levels(const FoldedPages& pages, const CodecInfo& key) {
  return key.bits <= 4 && key.family != CodecFamily::kTrellis && !key.outliers &&
         CommonShape::is(pages.shape) && pages.rotation->rotary_dim == pages.shape.dim;
}

// Where the words of a pair of channels stand in Tile::key_words.
HWY_INLINE size_t word_place(uint32_t pair, uint32_t lane) { return size_t{pair} * kTurnTokens + lane; }

// Columns of lanes at a time where keys are turned on the way: their levels, scales and angles take
// registers.
template <int kRows>
constexpr uint32_t turned_columns() {
  return std::min(float_columns_for<kRows>(kTurnTokens), 2U);
}

// Sums of products of a block's rows with turned keys: kColumns columns of lanes from `lane` on, each in
// kChains sums that do not wait for each other.
template <int kRows, uint32_t kColumns, uint32_t kChains = 1>
struct WordSums {
  Ints sums[kChains][kRows][kColumns];

  HWY_INLINE WordSums() {
    for (auto& chain : sums) {
      for (auto& row : chain) {
        for (Ints& sum : row) sum = splat(0);
      }
    }
  }
  // query: of the keys' pair of channels, for the first row.
  HWY_INLINE void add(const int32_t* query, const Words (&keys)[kColumns], uint32_t chain = 0) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Words operand = words_of(splat(query[static_cast<uint32_t>(r) * kHalfDim]));
#pragma GCC unroll 4
      for (uint32_t k = 0; k < kColumns; ++k) add_products(sums[chain][r][k], keys[k], operand);
    }
  }
  HWY_INLINE void store_scores(const RowBlock& block, uint32_t lane, float* scores) const {
    for (int r = 0; r < kRows; ++r) {
      for (uint32_t k = 0; k < kColumns; ++k) {
        Ints sum = sums[0][r][k];
        for (uint32_t chain = 1; chain < kChains; ++chain) sum = sum + sums[chain][r][k];
        store(to_floats(sum) * splat(block.score_scale[r]),
              scores + static_cast<uint32_t>(r) * kTurnTokens + lane + k * kLanes);
      }
    }
  }
};

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
