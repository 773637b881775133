// Keys of a pre_rope section brought to the query's space: decoded, turned back from the balanced rotation
// where the codec has one, then rotated by their positions. Thread safety: pure functions.
#pragma once

#include "quant/cpu/decode-inl.h"
#include "quant/cpu/rotate-inl.h"
#include "quant/cpu/section-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// keys[c], keys[c + half] by the angle of the page's base plus that of the token inside it.
inline void rope_row(const KeyRotation& rotation, uint32_t section, uint32_t token, float* keys) {
  const uint32_t half = rotation.rotary_dim / 2;
  const float* token_cos = rotation.token_cos + size_t{token} * half;
  const float* token_sin = rotation.token_sin + size_t{token} * half;
  const float* base_cos = rotation.base_cos + size_t{section} * half;
  const float* base_sin = rotation.base_sin + size_t{section} * half;
  for (uint32_t i = 0; i < half; ++i) {
    const float cosine = base_cos[i] * token_cos[i] - base_sin[i] * token_sin[i];
    const float sine = base_sin[i] * token_cos[i] + base_cos[i] * token_sin[i];
    const float a = keys[i];
    const float b = keys[i + half];
    keys[i] = a * cosine - b * sine;
    keys[i + half] = b * cosine + a * sine;
  }
}

// x = H x / diag: undoes the balanced rotation of keys.
inline void unrotate_keys(float* x, uint32_t rows, uint32_t dim, const float* balance) {
  rotate_rows(x, rows, dim, nullptr);
  if (balance == nullptr) return;
  for (uint32_t row = 0; row < rows; ++row) {
    for (uint32_t c = 0; c < dim; c += kLanes) {
      float* at = x + size_t{row} * dim + c;
      store(load(at) / load(balance + c), at);
    }
  }
}

// out: [tokens][dim]. `section` counts the sections of the call. Sink rows are given as f32 [sinks][dim].
inline void rope_keys(const FoldedPages& pages, const CodecInfo& codec, const SectionRef& ref,
                      uint32_t section, const float* sink_keys, float* out) {
  const SectionShape shape = pages.shape;
  const SideView side{ref.section + pages.layout.key_codes, ref.section + pages.layout.key_meta,
                      ref.key_param};
  decode_side(Side::kKey, codec, shape, side, out);
  for (uint32_t i = 0; i < pages.sink_tokens * shape.dim; i += kLanes) store(load(sink_keys + i), out + i);
  if (codec.space == CodecSpace::kRotated) {
    unrotate_keys(out, shape.tokens, shape.dim, pages.rotation->key_balance);
  }
  for (uint32_t t = 0; t < shape.tokens; ++t)
    rope_row(*pages.rotation, section, t, out + size_t{t} * shape.dim);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
