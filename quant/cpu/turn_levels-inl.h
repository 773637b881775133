// Attention in 16-bit integers over pre_rope keys (turn_words-inl.h): constants of a call, queries, and the
// steps of a block of rows. Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/turn_rotated-inl.h"
#include "quant/cpu/turn_uniform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline void set_turns(const FoldedPages& pages, const CodecInfo& key, Tile& tile) {
  if (key.family == CodecFamily::kRotated) {
    set_rotated_turns(*pages.rotation, tile);
  } else {
    set_uniform_turns(*pages.rotation, tile);
    *tile.turned_levels = make_turned_levels(key, pages.key_codec.levels);
  }
}

// Once per section whose terms are loaded.
inline void set_pairs(const CodecInfo& key, Tile& tile) {
  key.family == CodecFamily::kRotated ? set_rotated_means(tile) : set_uniform_pairs(tile);
}

// Once per call: the length of each row's pairs, which turning does not change.
inline void measure_pairs(Tile& tile, RowBlock& block) {
  for (uint32_t r = 0; r < block.rows; ++r) {
    const float* q = tile.q + (size_t{block.first} + r) * 2 * kHalfDim;
    float* out = tile.pair_length + (size_t{block.first} + r) * kHalfDim;
    for (uint32_t i = 0; i < kHalfDim; i += kLanes) {
      const Floats x = load(q + i);
      const Floats y = load(q + kHalfDim + i);
      store(sqrt(mul_add(x, x, y * y)), out + i);
    }
  }
}

// block.query = the block's rows turned by minus the section's base, in words; score_scale and score_offset.
template <bool kRotated, int kRows>
void turn_and_quantise(Tile& tile, RowBlock& block) {
  constexpr float kRoot2 = 1.41422F;
  Floats largest[kRows];
  Floats sum[kRows];
  for (int r = 0; r < kRows; ++r) {
    const float* length = tile.pair_length + (size_t{block.first} + static_cast<uint32_t>(r)) * kHalfDim;
    largest[r] = sum[r] = splat(0.0F);
    for (uint32_t i = 0; i < kHalfDim; i += kLanes) {
      const Floats x = load(length + i) * load(tile.pair_factor + i);
      largest[r] = max(largest[r], x);
      sum[r] = sum[r] + x;
    }
  }
  const Floats most =
      max(reduce_rows<MaxOp>(largest) * splat(kQuerySum / kWordTop), reduce_rows<AddOp>(sum) * splat(kRoot2));
  const Floats step = max(most * splat(1.0F / kQuerySum), splat(1e-30F));
  alignas(64) PerRow inverse;
  store(splat(1.0F) / step, inverse);
  store(step * splat(tile.key_unit), block.score_scale);
  store(splat(0.0F), block.score_offset);
  for (int r = 0; r < kRows; ++r) {
    const float* q = tile.q + (size_t{block.first} + static_cast<uint32_t>(r)) * 2 * kHalfDim;
    int32_t* pairs = block.query + static_cast<uint32_t>(r) * 2 * kTurnQuads;
    for (uint32_t i = 0; i < kHalfDim; i += 2 * kLanes) {
      Ints first[2];
      Ints second[2];
#pragma GCC unroll 2
      for (uint32_t k = 0; k < 2; ++k) {
        const uint32_t at = i + k * kLanes;
        const Floats factor = load(tile.pair_factor + at) * splat(inverse[r]);
        const Floats x = load(q + at) * factor;
        const Floats y = load(q + kHalfDim + at) * factor;
        const Floats cosine = load(tile.base.cosine + at);
        const Floats sine = load(tile.base.sine + at);
        first[k] = to_ints(mul_add(x, cosine, y * sine));
        second[k] = to_ints(y * cosine - x * sine);
      }
      if constexpr (kRotated) {
        store(pack_words(first[0], second[0]), pairs + i);
        store(pack_words(first[1], second[1]), pairs + i + kLanes);
      } else {
        store_pairs_of_channels(first[0], first[1], pairs, i, kTurnQuads);
        store_pairs_of_channels(second[0], second[1], pairs, kHalfDim + i, kTurnQuads);
      }
    }
  }
}

// Rows of a block behind the first.
template <int kRows>
void score_words(Tile& tile, RowBlock& block) {
  constexpr uint32_t kColumns = float_columns_for<kRows>(kTurnTokens);
  const int32_t* const all = tile.key_words;
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kColumns * kLanes) {
    WordSums<kRows, kColumns> sums;
#pragma GCC unroll 2
    for (uint32_t pair = 0; pair < kHalfDim; ++pair) {
      Words keys[kColumns];
#pragma GCC unroll 4
      for (uint32_t k = 0; k < kColumns; ++k) keys[k] = load_words(all + word_place(pair, lane + k * kLanes));
      sums.add(block.query + pair, keys);
    }
    sums.store_scores(block, lane, tile.scores);
  }
}

// Rows of the first block, which turns the keys.
using ScoreWords = void (*)(Tile&, RowBlock&);
template <int kRows>
ScoreWords turning_score(const CodecInfo& codec) {
  const bool rotated = codec.family == CodecFamily::kRotated;
  if (codec.bits == 2) return rotated ? &score_rotated_words<2, kRows> : &score_uniform_words<2, kRows>;
  if (codec.bits == 3) return rotated ? &score_rotated_words<3, kRows> : &score_uniform_words<3, kRows>;
  return rotated ? &score_rotated_words<4, kRows> : &score_uniform_words<4, kRows>;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
