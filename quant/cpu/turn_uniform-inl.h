// Keys with scales per channel, turned and multiplied in 16 bits (turn_words-inl.h). Thread safety: touches
// only the tile.
#pragma once

#include "quant/cpu/turn_words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Where the entry of sixteen tokens, a kind and a quad stands in Tile::turns: in the order of use.
HWY_INLINE size_t uniform_turn(uint32_t lane, uint32_t kind, uint32_t quad) {
  return size_t{(quad * (kTurnTokens / kLanes) + lane / kLanes) * 2 + kind} * 2 * kLanes;
}

// Angles of channels c and c + 2 at sixteen tokens, [kHalfDim][kTurnTokens] each.
HWY_INLINE Words angle_words(const float* angles, uint32_t channel, uint32_t lane) {
  const float* at = angles + size_t{channel} * kTurnTokens + lane;
  const Floats one = splat(kOne);
  return words_of(pack_words(to_ints(load(at) * one), to_ints(load(at + 2 * kTurnTokens) * one)));
}

// Once per call, keys per channel: cosines and sines.
inline void set_uniform_turns(const KeyRotation& rotation, Tile& tile) {
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kLanes) {
    for (uint32_t kind = 0; kind < 2; ++kind) {
      for (uint32_t quad = 0; quad < kHalfQuads; ++quad) {
        int32_t* to = tile.turns + uniform_turn(lane, kind, quad);
        store(angle_words(rotation.token_cos, 4 * quad + kind, lane), to);
        store(angle_words(rotation.token_sin, 4 * quad + kind, lane), to + kLanes);
      }
    }
  }
}

// Once per section: what its channels are scaled and shifted by, and the pairs' factors.
inline void set_uniform_pairs(Tile& tile) {
  const Floats top = splat(tile.turned_levels->top);
  const Floats to_words = splat(32768.0F / tile.turned_levels->words);
  const Section& section = tile.section;
  alignas(64) float scale[2 * kHalfDim];
  alignas(64) float mid[2 * kHalfDim];
  for (uint32_t i = 0; i < kHalfDim; i += kLanes) {
    const Floats s[2] = {load(section.key_channel_scale + i), load(section.key_channel_scale + kHalfDim + i)};
    const Floats m[2] = {load(section.key_channel_mid + i), load(section.key_channel_mid + kHalfDim + i)};
    const Floats first = mul_add(abs(s[0]), top, abs(m[0]));
    const Floats second = mul_add(abs(s[1]), top, abs(m[1]));
    const Floats largest = max(max(first, second), splat(1e-30F));
    store(largest * splat(1.0F / kUniformTop), tile.pair_factor + i);
    const Floats inverse = splat(kUniformTop) / largest;
    for (uint32_t half = 0; half < 2; ++half) {
      store(s[half] * inverse * to_words, scale + half * kHalfDim + i);
      store(m[half] * inverse, mid + half * kHalfDim + i);
    }
  }
  for (uint32_t c = 0; c < 2 * kHalfDim; c += 2 * kLanes) {
    store_pairs_of_channels(to_ints(load(scale + c)), to_ints(load(scale + c + kLanes)), tile.pair_scale, c,
                            kTurnQuads);
    store_pairs_of_channels(to_ints(load(mid + c)), to_ints(load(mid + c + kLanes)), tile.pair_mid, c,
                            kTurnQuads);
  }
  tile.key_unit = section.key_factor / kUniformGain;
}

// One quad of both halves: what its channels are scaled by and shifted by, [kind][half].
struct UniformQuad {
  Words scale[2][2];
  Words mid[2][2];

  HWY_INLINE UniformQuad(const int32_t* scales, const int32_t* mids, uint32_t quad) {
    for (uint32_t kind = 0; kind < 2; ++kind) {
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t at = kind * kTurnQuads + half * kHalfQuads + quad;
        scale[kind][half] = words_of(splat(scales[at]));
        mid[kind][half] = words_of(splat(mids[at]));
      }
    }
  }
  template <uint32_t kKind>
  HWY_INLINE Words key(uint32_t half, const Levels& levels) const {
    return level_words<kKind>(levels) * scale[kKind][half] + mid[kKind][half];
  }
};

// One quad of each half at kColumns columns of lanes: turned, kept, multiplied.
template <uint32_t kBits, uint32_t kField, int kRows, uint32_t kColumns>
HWY_INLINE void score_uniform_field(const Tile& tile, const RowBlock& block, const auto& table, uint32_t step,
                                    uint32_t lane, WordSums<kRows, kColumns>& sums) {
  using Step = Codes<Side::kValue, Form{kBits}>;  // signed levels
  constexpr uint32_t kSteps = kHalfQuads / Step::kQuads;
  const QuadSource& source = tile.section.key;
  const uint8_t* high_plane = source.codes + source.high_plane;
  const uint8_t* high_plane_ahead = source.ahead + source.high_plane;
  const uint32_t quad = step * Step::kQuads + kField;
  Levels levels[2][kColumns];
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t at = step + half * kSteps;
#pragma GCC unroll 4
    for (uint32_t k = 0; k < kColumns; ++k) {
      const uint32_t column = lane + k * kLanes;
      const Step codes = Step::load(source.codes, high_plane, at, 2 * kSteps, column, kTurnTokens);
      if constexpr (kField == 0) Step::prefetch(source.ahead, high_plane_ahead, at, column, kTurnTokens);
      levels[half][k] = codes.template levels<kField>(table);
    }
  }
  const int32_t* const query = block.query + quad;
  const bool keep = tile.block_count > 1;
  const UniformQuad pairs(tile.pair_scale, tile.pair_mid, quad);
  for_fields<2>([&](auto kind) __attribute__((always_inline)) {
    Words first[kColumns];
    Words second[kColumns];
#pragma GCC unroll 4
    for (uint32_t k = 0; k < kColumns; ++k) {
      const uint32_t column = lane + k * kLanes;
      const Words x = pairs.template key<kind()>(0, levels[0][k]);
      const Words y = pairs.template key<kind()>(1, levels[1][k]);
      const int32_t* turn = tile.turns + uniform_turn(column, kind(), quad);
      const Words cosine = load_words(turn);
      const Words sine = load_words(turn + kLanes);
      first[k] = x * cosine - y * sine;
      second[k] = y * cosine + x * sine;
      if (keep) store(first[k], tile.key_words + word_place(kind() * kTurnQuads + quad, column));
      if (keep)
        store(second[k], tile.key_words + word_place(kind() * kTurnQuads + kHalfQuads + quad, column));
    }
    sums.add(query + kind() * kTurnQuads, first);
    sums.add(query + kind() * kTurnQuads + kHalfQuads, second);
  });
}

template <uint32_t kBits, int kRows>
void score_uniform_words(Tile& tile, RowBlock& block) {
  constexpr uint32_t kQuads = Codes<Side::kValue, Form{kBits}>::kQuads;
  constexpr uint32_t kColumns = turned_columns<kRows>();
  const auto table = load_table<Form{kBits}>(tile.turned_levels->bytes);
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kColumns * kLanes) {
    WordSums<kRows, kColumns> sums;
    for (uint32_t step = 0; step < kHalfQuads / kQuads; ++step) {
      for_fields<kQuads>([&](auto field) __attribute__((always_inline)) {
        score_uniform_field<kBits, field(), kRows, kColumns>(tile, block, table, step, lane, sums);
      });
    }
    sums.store_scores(block, lane, tile.scores);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
