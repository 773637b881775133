// Keys of a pre_rope section brought to the query's space, in f32: unfolded, turned back from the balanced
// rotation where the codec has one, then rotated by their offsets in the page. The page's own position is
// turned out of the query instead.
//
// All of it works on [dim][tokens], lanes are tokens: as the codes lie, so that nothing is transposed, the
// butterflies of the rotation are plain additions and a pair of channels meets in registers. Bound by the
// additions of the rotation and by stores to the first-level cache. Thread safety: touches only the tile.
#pragma once

#include "quant/cpu/rotate-inl.h"
#include "quant/cpu/tile-inl.h"
#include "quant/hadamard.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// (a, b) by an angle.
HWY_INLINE void turn_pair(float* a, float* b, Floats cosine, Floats sine) {
  const Floats x = load(a);
  const Floats y = load(b);
  store(mul_add(x, cosine, splat(0.0F) - y * sine), a);
  store(mul_add(y, cosine, x * sine), b);
}

// tile.turned_query = the block's rows turned by minus the section's base.
inline void turn_queries(Tile& tile, RowBlock& block) {
  const uint32_t dim = tile.shape.dim;
  const uint32_t half = tile.base.half;
  for (uint32_t r = 0; r < block.rows; ++r) {
    const float* q = tile.q + (size_t{block.first} + r) * dim;
    float* out = tile.turned_query + size_t{r} * dim;
    for (uint32_t c = 0; c < dim; c += kLanes) store(load(q + c), out + c);
    uint32_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      const Floats sine = splat(0.0F) - load(tile.base.sine + i);
      turn_pair(out + i, out + half + i, load(tile.base.cosine + i), sine);
    }
    for (; i < half; ++i) {
      out[i] = q[i] * tile.base.cosine[i] + q[half + i] * tile.base.sine[i];
      out[half + i] = q[half + i] * tile.base.cosine[i] - q[i] * tile.base.sine[i];
    }
  }
}

// Levels as floats, [dim][tokens].
template <Form kForm>
void unfold_levels(const QuadSource& source, SectionShape shape, float* out) {
  using Step = Codes<Side::kKey, kForm>;
  const auto table = load_table<kForm>(*source.table);
  const uint8_t* high_plane = source.codes + source.high_plane;
  const uint8_t* high_plane_ahead = source.ahead + source.high_plane;
  const uint32_t steps = shape.dim / 4 / Step::kQuads;
  for (uint32_t step = 0; step < steps; ++step) {
    for (uint32_t lane = 0; lane < shape.tokens; lane += kLanes) {
      const Step codes = Step::load(source.codes, high_plane, step, steps, lane, shape.tokens);
      Step::prefetch(source.ahead, high_plane_ahead, step, lane, shape.tokens);
      for_fields<Step::kQuads>([&](auto field) __attribute__((always_inline)) {
        const Levels levels = codes.template levels<field()>(table);
        float* at = out + size_t{4} * (step * Step::kQuads + field()) * shape.tokens + lane;
        for_fields<4>([&](auto i) __attribute__((always_inline)) {
          const Floats level = to_floats(key_level<i()>(levels)) - splat(float{kKeyBias});
          store(level, at + size_t{i()} * shape.tokens);
        });
      });
    }
  }
}

// Float codes, [dim / 2][tokens][2] of bf16 or [dim][tokens] of f32.
inline void unfold_floats(bool bf16, const uint8_t* codes, SectionShape shape, float* out) {
  const size_t count = size_t{shape.tokens} * shape.dim;
  if (!bf16) {
    for (size_t i = 0; i < count; i += kLanes)
      store(load(reinterpret_cast<const float*>(codes) + i), out + i);
    return;
  }
  for (uint32_t pair = 0; pair < shape.dim / 2; ++pair) {
    for (uint32_t lane = 0; lane < shape.tokens; lane += kLanes) {
      const size_t at = size_t{pair} * shape.tokens + lane;
      const Ints both = load(reinterpret_cast<const int32_t*>(codes) + at);
      float* to = out + size_t{2} * pair * shape.tokens + lane;
      store(floats_from_bits(shift_left(both, 16)), to);
      store(floats_from_bits(both & splat(static_cast<int32_t>(0xFFFF0000U))), to + shape.tokens);
    }
  }
}

// kRadix channels that stand `distance` apart, at all tokens: log2(kRadix) stages of the Hadamard matrix.
template <uint32_t kRadix>
HWY_INLINE void mix_channels(float* x, uint32_t tokens, uint32_t distance) {
  for (uint32_t lane = 0; lane < tokens; lane += kLanes) {
    Floats v[kRadix];
#pragma GCC unroll 16
    for (uint32_t k = 0; k < kRadix; ++k) v[k] = load(x + size_t{k} * distance * tokens + lane);
#pragma GCC unroll 4
    for (uint32_t apart = 1; apart < kRadix; apart *= 2) {
#pragma GCC unroll 16
      for (uint32_t k = 0; k < kRadix; ++k) {
        if ((k & apart) != 0) continue;
        const Floats a = v[k];
        v[k] = a + v[k + apart];
        v[k + apart] = a - v[k + apart];
      }
    }
#pragma GCC unroll 16
    for (uint32_t k = 0; k < kRadix; ++k) store(v[k], x + size_t{k} * distance * tokens + lane);
  }
}

// x = H x without its norm, [dim][tokens], in blocks of channels as FORMATS.md has them.
inline void mix_all_channels(float* x, SectionShape shape) {
  const uint32_t block = hadamard_block(shape.dim);
  for (uint32_t distance = 1; distance < block;) {
    const uint32_t radix = block / distance < 16 ? block / distance : 16;
    for (uint32_t first = 0; first < shape.dim; first += distance * radix) {
      for (uint32_t c = first; c < first + distance; ++c) {
        float* at = x + size_t{c} * shape.tokens;
        if (radix == 2) mix_channels<2>(at, shape.tokens, distance);
        if (radix == 4) mix_channels<4>(at, shape.tokens, distance);
        if (radix == 8) mix_channels<8>(at, shape.tokens, distance);
        if (radix == 16) mix_channels<16>(at, shape.tokens, distance);
      }
    }
    distance *= radix;
  }
}

// How what lies in tile.keys becomes keys: x * token_scale[t] * scale[c] + mid[c]; written to the section's
// channel arrays, which folded queries do not need here.
inline void set_channel_terms(const CodecInfo& codec, const KeyRotation& rotation, SectionShape shape,
                              Section* section) {
  float* scale = section->key_channel_scale;
  float* mid = section->key_channel_mid;
  const Floats factor = splat(section->key_factor);
  if (has_midpoints(codec.family)) {
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      store(mul_add(splat(section->key_centre), load(scale + c), load(mid + c)) * factor, mid + c);
      store(load(scale + c) * factor, scale + c);
    }
    return;
  }
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    store(to_floats(load_s8(section->key_means + c)) * splat(section->key_mean_step), mid + c);
  }
  rotate_rows(mid, 1, shape.dim, nullptr, mid);
  const Floats norm = splat(hadamard_norm(hadamard_block(shape.dim)));
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    const Floats inverse =
        splat(1.0F) / (rotation.key_balance == nullptr ? splat(1.0F) : load(rotation.key_balance + c));
    store(load(mid + c) * inverse, mid + c);
    store(norm * factor * inverse, scale + c);
  }
}

// x * token scale * channel scale + mid for one channel and sixteen tokens.
HWY_INLINE Floats key_of(const Section& section, const float* x, uint32_t channel, uint32_t token) {
  return mul_add(load(x) * load(section.key_token_scale + token), splat(section.key_channel_scale[channel]),
                 splat(section.key_channel_mid[channel]));
}

// Scales what was unfolded and adds the outliers, which stand in the keys' own units.
inline void scale_keys(const Section& section, SectionShape shape, float* keys) {
  for (uint32_t c = 0; c < shape.dim; ++c) {
    for (uint32_t t = 0; t < shape.tokens; t += kLanes) {
      float* at = keys + size_t{c} * shape.tokens + t;
      store(key_of(section, at, c, t), at);
    }
  }
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    keys[static_cast<uint32_t>(section.key_outlier_channel[t]) * size_t{shape.tokens} + t] +=
        section.key_outlier[t];
  }
}

// Scales what was unfolded (kScaled) and rotates it by the tokens' offsets.
template <bool kScaled>
void turn_keys(const KeyRotation& rotation, const Section& section, SectionShape shape, float* keys) {
  const uint32_t half = rotation.rotary_dim / 2;
  for (uint32_t c = 0; c < half; ++c) {
    for (uint32_t t = 0; t < shape.tokens; t += kLanes) {
      const size_t angle = size_t{c} * shape.tokens + t;
      float* a = keys + angle;
      float* b = a + size_t{half} * shape.tokens;
      const Floats cosine = load(rotation.token_cos + angle);
      const Floats sine = load(rotation.token_sin + angle);
      const Floats x = kScaled ? key_of(section, a, c, t) : load(a);
      const Floats y = kScaled ? key_of(section, b, c + half, t) : load(b);
      store(mul_add(x, cosine, splat(0.0F) - y * sine), a);
      store(mul_add(y, cosine, x * sine), b);
    }
  }
  for (uint32_t c = 2 * half; kScaled && c < shape.dim; ++c) {
    for (uint32_t t = 0; t < shape.tokens; t += kLanes) {
      float* at = keys + size_t{c} * shape.tokens + t;
      store(key_of(section, at, c, t), at);
    }
  }
}

// tile.keys, from a section whose terms are loaded.
inline void rope_keys(const FoldedPages& pages, const CodecInfo& codec, Tile& tile) {
  const SectionShape shape = pages.shape;
  const KeyRotation& rotation = *pages.rotation;
  if (codec.family == CodecFamily::kFloat) {
    unfold_floats(codec.bits == 16, tile.section.key.codes, shape, tile.keys);
    return turn_keys<false>(rotation, tile.section, shape, tile.keys);
  }
  with_form(codec, [&](auto form) {
    if constexpr (!form().is_float()) unfold_levels<form()>(tile.section.key, shape, tile.keys);
  });
  if (codec.space == CodecSpace::kRotated) mix_all_channels(tile.keys, shape);
  set_channel_terms(codec, rotation, shape, &tile.section);
  if (codec.outliers) {
    scale_keys(tile.section, shape, tile.keys);
    return turn_keys<false>(rotation, tile.section, shape, tile.keys);
  }
  turn_keys<true>(rotation, tile.section, shape, tile.keys);
}

// Rows of unfolded keys in the codec's space, [rows][dim] in place, by the section's base and their offsets.
inline void rope_sinks(const FoldedPages& pages, const CodecInfo& codec, const Tile& tile, uint32_t rows) {
  const KeyRotation& rotation = *pages.rotation;
  const uint32_t half = rotation.rotary_dim / 2;
  if (codec.space == CodecSpace::kRotated) {
    rotate_rows(tile.sink_keys, rows, pages.shape.dim, nullptr, tile.sink_keys);
  }
  for (uint32_t t = 0; t < rows; ++t) {
    float* key = tile.sink_keys + size_t{t} * pages.shape.dim;
    for (uint32_t c = 0; codec.space == CodecSpace::kRotated && c < pages.shape.dim; ++c) {
      if (rotation.key_balance != nullptr) key[c] /= rotation.key_balance[c];
    }
    for (uint32_t i = 0; i < half; ++i) {
      const float token_cosine = rotation.token_cos[size_t{i} * pages.shape.tokens + t];
      const float token_sine = rotation.token_sin[size_t{i} * pages.shape.tokens + t];
      const float cosine = tile.base.cosine[i] * token_cosine - tile.base.sine[i] * token_sine;
      const float sine = tile.base.sine[i] * token_cosine + tile.base.cosine[i] * token_sine;
      const float a = key[i];
      const float b = key[i + half];
      key[i] = a * cosine - b * sine;
      key[i + half] = b * cosine + a * sine;
    }
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
