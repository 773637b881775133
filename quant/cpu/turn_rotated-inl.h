// Rotated keys, turned and multiplied in 16 bits (turn_words-inl.h). Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/rotate-inl.h"
#include "quant/cpu/turn_words-inl.h"
#include "quant/hadamard.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr float kRotatedTop = 32500.0F;
inline constexpr float kMixedTop = 4 * 127 * 64;  // of the half-mixed levels
inline constexpr float kMatrixTop = 32700.0F;     // of the magnitudes in a row of a matrix, 2^15 is 1
inline constexpr float kRotatedGain = kMatrixTop / 32768.0F;
// The bias of key levels gathers in channel 0 of each half, both in one lane: 4 * 64 * 128 = 2^15.
inline constexpr int32_t kMixedBias = static_cast<int32_t>(0x10001U * 256 * uint32_t{kKeyBias});

// Where the matrices of sixteen tokens and the pair (c, c + 64) stand in Tile::turns: in the order of use.
HWY_INLINE size_t rotated_turn(uint32_t lane, uint32_t channel) {
  const uint32_t place = channel % 4 * kHalfQuads + channel / 4;
  return size_t{lane / kLanes * kHalfDim + place} * 2 * kLanes;
}

// Once per call: with d1 and d2 what undoes the balance, the matrices
//   d1 cos - d2 sin    d1 cos + d2 sin
//   d1 sin + d2 cos    d1 sin - d2 cos
// and as the pair's factor 2 max(d1, d2), which both are divided by. Diagonals stand before the rest.
inline void set_rotated_turns(const KeyRotation& rotation, Tile& tile) {
  alignas(64) float gain[2 * kHalfDim];
  for (uint32_t i = 0; i < kHalfDim; i += kLanes) {
    Floats first = splat(1.0F);
    Floats second = splat(1.0F);
    if (rotation.key_balance != nullptr) {
      first = first / load(rotation.key_balance + i);
      second = second / load(rotation.key_balance + kHalfDim + i);
    }
    const Floats factor = max(first, second) * splat(2.0F);
    store(factor, tile.pair_factor + i);
    store(first / factor * splat(kMatrixTop), gain + i);
    store(second / factor * splat(kMatrixTop), gain + kHalfDim + i);
  }
  for (uint32_t c = 0; c < kHalfDim; ++c) {
    const Floats first = splat(gain[c]);
    const Floats second = splat(gain[kHalfDim + c]);
    for (uint32_t lane = 0; lane < kTurnTokens; lane += kLanes) {
      const Floats cosine = load(rotation.token_cos + size_t{c} * kTurnTokens + lane);
      const Floats sine = load(rotation.token_sin + size_t{c} * kTurnTokens + lane);
      int32_t* to = tile.turns + rotated_turn(lane, c);
      store(pack_words(to_ints(first * cosine - second * sine), to_ints(first * sine - second * cosine)), to);
      store(pack_words(to_ints(first * cosine + second * sine), to_ints(first * sine + second * cosine)),
            to + kLanes);
    }
  }
}

// Once per section: the mean after six stages, and what a mixed level is multiplied by, times 2^15.
inline void set_rotated_means(Tile& tile) {
  const Section& section = tile.section;
  alignas(64) float mixed[2 * kHalfDim];
  const Floats step = splat(4 * section.key_mean_step);
  for (uint32_t half = 0; half < 2 * kHalfDim; half += kHalfDim) {
    Floats block[kHalfDim / kLanes];
    for (uint32_t i = 0; i < kHalfDim / kLanes; ++i) {
      block[i] = to_floats(load_s8(section.key_means + half + i * kLanes)) * step;
    }
    mix_block(block);
    for (uint32_t i = 0; i < kHalfDim / kLanes; ++i) store(block[i], mixed + half + i * kLanes);
  }
  const float sum = kMixedTop * section.key_factor + largest_magnitude(mixed, 2 * kHalfDim);
  const float largest = sum > 1e-30F ? sum : 1e-30F;
  const Floats inverse = splat(kRotatedTop / largest);
  for (uint32_t c = 0; c < kHalfDim; c += kLanes) {
    store(pack_words(to_ints(load(mixed + c) * inverse), to_ints(load(mixed + kHalfDim + c) * inverse)),
          tile.pair_mid + c);
  }
  tile.key_unit = largest * (hadamard_norm(2 * kHalfDim) / (4 * kRotatedTop * kRotatedGain));
  tile.mixed_unit = section.key_factor * (kRotatedTop / largest) * 32768.0F;
}

// Sixteen tokens of all levels, mixed within quads: to tile.mixed, [4][kHalfQuads][sixteen lanes].
template <uint32_t kBits>
HWY_INLINE void mix_quads(const QuadSource& source, uint32_t lane, int32_t* mixed) {
  using Step = Codes<Side::kKey, Form{kBits}>;
  const auto table = load_table<Form{kBits}>(*source.table);
  const uint8_t* high_plane = source.codes + source.high_plane;
  const uint8_t* high_plane_ahead = source.ahead + source.high_plane;
  constexpr uint32_t kSteps = kHalfQuads / Step::kQuads;
  for (uint32_t step = 0; step < kSteps; ++step) {
    Step codes[2];
#pragma GCC unroll 2
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t at = step + half * kSteps;
      codes[half] = Step::load(source.codes, high_plane, at, 2 * kSteps, lane, kTurnTokens);
      Step::prefetch(source.ahead, high_plane_ahead, at, lane, kTurnTokens);
    }
    const StepPair<Step> pair(codes[0], codes[1]);
    for_fields<Step::kQuads>([&](auto field) __attribute__((always_inline)) {
      int32_t* to = mixed + size_t{step * Step::kQuads + field()} * kLanes;
      const MixedLevels sums = pair.template mixed<field(), 0>(table);
      const MixedLevels differences = pair.template mixed<field(), 1>(table);
      store(sums.first + sums.second, to);
      store(differences.first + differences.second, to + size_t{kHalfQuads} * kLanes);
      store(sums.first - sums.second, to + size_t{2 * kHalfQuads} * kLanes);
      store(differences.first - differences.second, to + size_t{3 * kHalfQuads} * kLanes);
    });
  }
}

// v = sixteen quads, mixed with each other.
HWY_INLINE void mix_sixteen(const int32_t* quads, Words (&v)[kHalfQuads]) {
#pragma GCC unroll 16
  for (uint32_t k = 0; k < kHalfQuads; ++k) v[k] = load_words(quads + size_t{k} * kLanes);
#pragma GCC unroll 4
  for (uint32_t apart = 1; apart < kHalfQuads; apart *= 2) {
#pragma GCC unroll 16
    for (uint32_t k = 0; k < kHalfQuads; ++k) {
      if ((k & apart) != 0) continue;
      const Words a = v[k];
      v[k] = a + v[k + apart];
      v[k + apart] = a - v[k + apart];
    }
  }
}

template <uint32_t kBits, int kRows>
void score_rotated_words(Tile& tile, RowBlock& block) {
  constexpr uint32_t kChains = 2 * kRows * kParts <= kSumRegisters / 2 ? 2 : 1;
  const bool keep = tile.block_count > 1;
  const Floats unit = splat(tile.mixed_unit);
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kLanes) {
    mix_quads<kBits>(tile.section.key, lane, tile.mixed);
    WordSums<kRows, 1, kChains> sums;
    const Ints scale = to_ints(load(tile.section.key_token_scale + lane) * unit);
    const Words scales = words_of(pack_words(scale, scale));
    for (uint32_t element = 0; element < 4; ++element) {
      const int32_t* const mean = tile.pair_mid + element;
      const int32_t* const turns = tile.turns + rotated_turn(lane, element);
      const int32_t* const query = block.query + element;
      int32_t* const words = tile.key_words + word_place(element, lane);
      Words v[kHalfQuads];
      mix_sixteen(tile.mixed + size_t{element} * kHalfQuads * kLanes, v);
      if (element == 0) v[0] = v[0] + words_of(splat(kMixedBias));
#pragma GCC unroll 16
      for (uint32_t quad = 0; quad < kHalfQuads; ++quad) {
        const Words key = v[quad] * scales + words_of(splat(mean[4 * quad]));
        const int32_t* turn = turns + size_t{quad} * 2 * kLanes;
        const Words turned[1] = {key * load_words(turn) + swap_lanes(key) * load_words(turn + kLanes)};
        if (keep) store(turned[0], words + word_place(4 * quad, 0));
        sums.add(query + size_t{4} * quad, turned, quad % kChains);
      }
    }
    sums.store_scores(block, lane, tile.scores);
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
