// pre_rope keys of 4 bits and below, but for trellis codecs, of the common shape, brought to the query's
// space in 16-bit integers and multiplied as such. rope_keys-inl.h does the same in f32 for all others, at
// three times the cost.
//
// A lane holds two channels of a token, 0 and 2 or 1 and 3 of a quad (a *kind*), as the bytes of codes give
// them. So nothing is transposed: channels c and c + 64, which a rotation mixes, stand in different
// registers, and so do all that the Hadamard matrix mixes, but for channels 0 and 1 of a quad (mixed_levels)
// and for the two of a lane (mix_lanes).
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

#include "quant/cpu/float_dot-inl.h"
#include "quant/cpu/rotate-inl.h"
#include "quant/cpu/tile-inl.h"
#include "quant/cpu/words-inl.h"
#include "quant/hadamard.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kTurnTokens = CommonShape::kTokenStep;
inline constexpr uint32_t kTurnQuads = CommonShape::kDimStep / 4;
inline constexpr uint32_t kHalfQuads = kTurnQuads / 2;
inline constexpr uint32_t kHalfDim = CommonShape::kDimStep / 2;
inline constexpr float kUniformTop = 23000.0F;
inline constexpr float kRotatedTop = 32500.0F;
inline constexpr float kMixedTop = 4 * 127 * 64;  // of the half-mixed levels
inline constexpr float kMatrixTop = 32700.0F;     // of the magnitudes in a row of a matrix, 2^15 is 1
inline constexpr float kOne = 32767.0F;           // cosines and sines
inline constexpr float kQuerySum = 65400.0F;      // rounding adds 64 at most; 2^31 / 32767 is 65537
inline constexpr float kWordTop = 32700.0F;

// The words' share of a true value that the products lack, as kOne is not quite 1.
inline constexpr float kUniformGain = kOne / 32768.0F;
inline constexpr float kRotatedGain = kMatrixTop / 32768.0F * (kOne / 32768.0F);

// Whether this file serves a call in pre_rope space.
inline bool turns_levels(const FoldedPages& pages, const CodecInfo& key) {
  return key.bits <= 4 && key.family != CodecFamily::kTrellis && !key.outliers &&
         CommonShape::is(pages.shape) && pages.rotation->rotary_dim == pages.shape.dim;
}

// Where the entry of sixteen tokens, a kind and a quad stands in Tile::turns: in the order of use.
HWY_INLINE size_t uniform_turn(uint32_t lane, uint32_t kind, uint32_t quad) {
  return size_t{(quad * (kTurnTokens / kLanes) + lane / kLanes) * 2 + kind} * 2 * kLanes;
}
HWY_INLINE size_t rotated_turn(uint32_t lane, uint32_t kind, uint32_t quad) {
  return size_t{(lane / kLanes * 2 + kind) * kHalfQuads + quad} * 4 * kLanes;
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

// Once per call, rotated: with d1 and d2 what undoes the balance,
//   (d1 cos - d2 sin, d1 cos + d2 sin) and (d1 sin + d2 cos, d1 sin - d2 cos),
// and as the pair's factor 2 max(d1, d2), which both are divided by.
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
  alignas(64) int32_t pairs[2 * kTurnQuads];
  for (uint32_t c = 0; c < 2 * kHalfDim; c += 2 * kLanes) {
    store_pairs_of_channels(to_ints(load(gain + c)), to_ints(load(gain + c + kLanes)), pairs, c, kTurnQuads);
  }
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kLanes) {
    for (uint32_t kind = 0; kind < 2; ++kind) {
      for (uint32_t quad = 0; quad < kHalfQuads; ++quad) {
        const Words cosine = angle_words(rotation.token_cos, 4 * quad + kind, lane);
        const Words sine = angle_words(rotation.token_sin, 4 * quad + kind, lane);
        const Words first = words_of(splat(pairs[kind * kTurnQuads + quad]));
        const Words second = words_of(splat(pairs[kind * kTurnQuads + kHalfQuads + quad]));
        int32_t* to = tile.turns + rotated_turn(lane, kind, quad);
        store(first * cosine - second * sine, to);
        store(first * cosine + second * sine, to + kLanes);
        store(first * sine + second * cosine, to + 2 * kLanes);
        store(first * sine - second * cosine, to + 3 * kLanes);
      }
    }
  }
}

inline void set_turns(const FoldedPages& pages, const CodecInfo& key, Tile& tile) {
  if (key.family == CodecFamily::kRotated) {
    set_rotated_turns(*pages.rotation, tile);
  } else {
    set_uniform_turns(*pages.rotation, tile);
    *tile.turned_levels = make_turned_levels(key, pages.key_codec.levels);
  }
}

// Where the words of a quad stand in Tile::key_words.
HWY_INLINE size_t word_place(uint32_t quad, uint32_t kind, uint32_t lane) {
  return size_t{quad * 2 + kind} * kTurnTokens + lane;
}

// What a section's channels are scaled by, as pairs [2][kTurnQuads] each, and the pairs' factors.
inline void set_uniform_pairs(Tile& tile, int32_t* scales, int32_t* mids) {
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
    store_pairs_of_channels(to_ints(load(scale + c)), to_ints(load(scale + c + kLanes)), scales, c,
                            kTurnQuads);
    store_pairs_of_channels(to_ints(load(mid + c)), to_ints(load(mid + c + kLanes)), mids, c, kTurnQuads);
  }
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

// One field of all steps: a quad of each half at all tokens.
template <uint32_t kBits, uint32_t kField>
HWY_INLINE void turn_uniform_field(const QuadSource& source, const LevelBytes& signed_levels, uint32_t step,
                                   const UniformQuad& pairs, const int32_t* turns, int32_t* out) {
  using Step = Codes<Side::kValue, Form{kBits}>;  // signed levels
  constexpr uint32_t kSteps = kHalfQuads / Step::kQuads;
  const auto table = load_table<Form{kBits}>(signed_levels);
  const uint8_t* high_plane = source.codes + source.high_plane;
  const uint8_t* high_plane_ahead = source.ahead + source.high_plane;
  const uint32_t quad = step * Step::kQuads + kField;
#pragma GCC unroll 4
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kLanes) {
    const Step first = Step::load(source.codes, high_plane, step, 2 * kSteps, lane, kTurnTokens);
    const Step second = Step::load(source.codes, high_plane, step + kSteps, 2 * kSteps, lane, kTurnTokens);
    if constexpr (kField == 0) {
      Step::prefetch(source.ahead, high_plane_ahead, step, lane, kTurnTokens);
      Step::prefetch(source.ahead, high_plane_ahead, step + kSteps, lane, kTurnTokens);
    }
    const Levels levels[2] = {first.template levels<kField>(table), second.template levels<kField>(table)};
    for_fields<2>([&](auto kind) __attribute__((always_inline)) {
      const Words x = pairs.template key<kind()>(0, levels[0]);
      const Words y = pairs.template key<kind()>(1, levels[1]);
      const int32_t* turn = turns + uniform_turn(lane, kind(), quad);
      const Words cosine = load_words(turn);
      const Words sine = load_words(turn + kLanes);
      store(x * cosine - y * sine, out + word_place(quad, kind(), lane));
      store(y * cosine + x * sine, out + word_place(quad + kHalfQuads, kind(), lane));
    });
  }
}

template <uint32_t kBits>
void turn_uniform_keys(Tile& tile) {
  constexpr uint32_t kQuads = Codes<Side::kValue, Form{kBits}>::kQuads;
  alignas(64) int32_t scales[2 * kTurnQuads];
  alignas(64) int32_t mids[2 * kTurnQuads];
  set_uniform_pairs(tile, scales, mids);
  tile.key_unit = tile.section.key_factor / kUniformGain;
  for (uint32_t step = 0; step < kHalfQuads / kQuads; ++step) {
    for_fields<kQuads>([&](auto field) __attribute__((always_inline)) {
      const UniformQuad pairs(scales, mids, step * kQuads + field());
      turn_uniform_field<kBits, field()>(tile.section.key, tile.turned_levels->bytes, step, pairs, tile.turns,
                                         tile.key_words);
    });
  }
}

// The mean after six stages, in words, as pairs [2][kTurnQuads]; returns what a mixed level is multiplied by,
// times 2^15.
inline float set_rotated_means(Tile& tile, int32_t* means) {
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
  for (uint32_t c = 0; c < 2 * kHalfDim; c += 2 * kLanes) {
    store_pairs_of_channels(to_ints(load(mixed + c) * inverse), to_ints(load(mixed + c + kLanes) * inverse),
                            means, c, kTurnQuads);
  }
  tile.key_unit = largest * (hadamard_norm(2 * kHalfDim) / (4 * kRotatedTop * kRotatedGain));
  return section.key_factor * (kRotatedTop / largest) * 32768.0F;
}

// Sixteen tokens of all levels, mixed within quads: to tile.mixed, [2][kTurnQuads][sixteen lanes].
template <uint32_t kBits>
HWY_INLINE void mix_quads(const QuadSource& source, uint32_t lane, int32_t* mixed) {
  using Step = Codes<Side::kKey, Form{kBits}>;
  const auto table = load_table<Form{kBits}>(*source.table);
  const uint8_t* high_plane = source.codes + source.high_plane;
  constexpr uint32_t kSteps = kTurnQuads / Step::kQuads;
  for (uint32_t step = 0; step < kSteps; ++step) {
    const Step codes = Step::load(source.codes, high_plane, step, kSteps, lane, kTurnTokens);
    Step::prefetch(source.ahead, source.ahead + source.high_plane, step, lane, kTurnTokens);
    for_fields<Step::kQuads>([&](auto field) __attribute__((always_inline)) {
      const Levels levels = codes.template levels<field()>(table);
      int32_t* to = mixed + size_t{step * Step::kQuads + field()} * kLanes;
      store(mix_lanes(mixed_levels<0>(levels)), to);
      store(mix_lanes(mixed_levels<1>(levels)), to + size_t{kTurnQuads} * kLanes);
    });
  }
}

// v = the sixteen quads of a half, mixed with each other.
HWY_INLINE void mix_half(const int32_t* quads, Words (&v)[kHalfQuads]) {
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

template <uint32_t kBits>
void turn_rotated_keys(Tile& tile) {
  alignas(64) int32_t means[2 * kTurnQuads];
  const Floats unit = splat(set_rotated_means(tile, means));
  int32_t* const turns = tile.turns;
  int32_t* const out = tile.key_words;
  int32_t* const mixed = tile.mixed;
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kLanes) {
    mix_quads<kBits>(tile.section.key, lane, mixed);
    const Ints scale = to_ints(load(tile.section.key_token_scale + lane) * unit);
    const Words scales = words_of(pack_words(scale, scale));
    for (uint32_t kind = 0; kind < 2; ++kind) {
      // The bias of key levels has gathered in channel 0 of each half: 4 * 64 * 128 = 2^15.
      const Words bias = words_of(splat(kind == 0 ? 256 * kKeyBias : 0));
      int32_t* first = mixed + size_t{kind * kTurnQuads} * kLanes;
      int32_t* second = first + size_t{kHalfQuads} * kLanes;
      const int32_t* mean = means + kind * kTurnQuads;
      Words v[kHalfQuads];
      mix_half(first, v);
      v[0] = v[0] + bias;
#pragma GCC unroll 16
      for (uint32_t k = 0; k < kHalfQuads; ++k) {
        store(v[k] * scales + words_of(splat(mean[k])), first + size_t{k} * kLanes);
      }
      mix_half(second, v);
      v[0] = v[0] + bias;
#pragma GCC unroll 16
      for (uint32_t k = 0; k < kHalfQuads; ++k) {
        const Words x = load_words(first + size_t{k} * kLanes);
        const Words y = v[k] * scales + words_of(splat(mean[kHalfQuads + k]));
        const int32_t* turn = turns + rotated_turn(lane, kind, k);
        store(x * load_words(turn) + y * load_words(turn + kLanes), out + word_place(k, kind, lane));
        store(x * load_words(turn + 2 * kLanes) + y * load_words(turn + 3 * kLanes),
              out + word_place(k + kHalfQuads, kind, lane));
      }
    }
  }
}

// tile.key_words, from a section whose terms are loaded.
inline void turn_levels(const CodecInfo& codec, Tile& tile) {
  const bool rotated = codec.family == CodecFamily::kRotated;
  if (codec.bits == 2) return rotated ? turn_rotated_keys<2>(tile) : turn_uniform_keys<2>(tile);
  if (codec.bits == 3) return rotated ? turn_rotated_keys<3>(tile) : turn_uniform_keys<3>(tile);
  return rotated ? turn_rotated_keys<4>(tile) : turn_uniform_keys<4>(tile);
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
template <int kRows>
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
      store_pairs_of_channels(first[0], first[1], pairs, i, kTurnQuads);
      store_pairs_of_channels(second[0], second[1], pairs, kHalfDim + i, kTurnQuads);
    }
  }
}

template <int kRows>
void score_words(Tile& tile, RowBlock& block) {
  constexpr uint32_t kColumns = float_columns_for<kRows>(kTurnTokens);
  const int32_t* const all = tile.key_words;
  for (uint32_t lane = 0; lane < kTurnTokens; lane += kColumns * kLanes) {
    Ints sums[kRows][kColumns];
    for (auto& row : sums) {
      for (Ints& sum : row) sum = splat(0);
    }
    for (uint32_t quad = 0; quad < kTurnQuads; ++quad) {
#pragma GCC unroll 2
      for (uint32_t kind = 0; kind < 2; ++kind) {
        Words keys[kColumns];
#pragma GCC unroll 4
        for (uint32_t k = 0; k < kColumns; ++k)
          keys[k] = load_words(all + word_place(quad, kind, lane + k * kLanes));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const int32_t* row = block.query + static_cast<uint32_t>(r) * 2 * kTurnQuads;
          const Words query = words_of(splat(row[kind * kTurnQuads + quad]));
#pragma GCC unroll 4
          for (uint32_t k = 0; k < kColumns; ++k) add_products(sums[r][k], keys[k], query);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (uint32_t k = 0; k < kColumns; ++k) {
        store(to_floats(sums[r][k]) * splat(block.score_scale[r]),
              tile.scores + static_cast<uint32_t>(r) * kTurnTokens + lane + k * kLanes);
      }
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
