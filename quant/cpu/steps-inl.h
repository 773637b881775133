// The steps that a block of rows takes through a section, chosen by codecs, shape and number of rows.
//
// A step is one call through a pointer per block and section, about a nanosecond; in exchange a kernel knows
// its bits, rows and (in the common case) shape as constants. Thread safety: pure functions.
#pragma once

#include "quant/cpu/accumulate-inl.h"
#include "quant/cpu/float_dot-inl.h"
#include "quant/cpu/outlier_terms-inl.h"
#include "quant/cpu/query-inl.h"
#include "quant/cpu/rope_keys-inl.h"
#include "quant/cpu/softmax-inl.h"
#include "quant/cpu/turn_levels-inl.h"
#include "quant/cpu/unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// False where the table is one of another instruction set's but for folded integer codes of the common shape,
// in post_rope space and without outliers (avxvnni.cc, amx.cc): then nothing else is compiled.
#if defined(QUIRE_SIMD_AVX_VNNI) || defined(QUIRE_SIMD_AMX)
inline constexpr bool kServesAll = false;
#else
inline constexpr bool kServesAll = true;
#endif

template <bool kBf16, int kRows, class Shape>
void score_floats(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  float_dot<kBf16, kRows, float_columns_for<kRows>(Shape::kTokenStep)>(
      tile.section.key.codes, tile.section.key.ahead, shape.dim(), shape.tokens(),
      tile.q + size_t{block.first} * shape.dim(),
      shape.dim(), [&](int r, uint32_t token, Floats sum) __attribute__((always_inline)) {
        store(sum, tile.scores + static_cast<uint32_t>(r) * shape.tokens() + token);
      });
}

// Keys that were rotated to tile.keys.
template <int kRows>
void score_rotated_keys(Tile& tile, RowBlock&) {
  const SectionShape shape = tile.shape;
  const uint8_t* keys = reinterpret_cast<const uint8_t*>(tile.keys);
  float_dot<false, kRows, float_columns_for<kRows>(AnyShape::kTokenStep)>(
      keys, keys, shape.dim, shape.tokens, tile.turned_query,
      shape.dim, [&](int r, uint32_t token, Floats sum) __attribute__((always_inline)) {
        store(sum, tile.scores + static_cast<uint32_t>(r) * shape.tokens + token);
      });
}

template <Form kForm, int kRows, class Shape, bool kMids, bool kMasked>
void weigh_codes(Tile& tile, RowBlock& block) {
  constexpr bool kFewBits = kForm.few_bits();
  if (weigh_in_quads<kFewBits, kMids, kMasked, kRows, Shape>(tile, block)) {
    accumulate_quads<kForm, true, kMids, kRows, Shape>(tile, block);
  } else if constexpr (kFewBits && kHasCoarse) {
    accumulate_quads<kForm, false, kMids, kRows, Shape>(tile, block);
  }
}

template <bool kBf16, int kRows, class Shape, bool kMasked>
void weigh_floats(Tile& tile, RowBlock& block) {
  const Shape shape(tile.shape);
  weigh_in_floats<kRows, kMasked>(tile, block, shape.tokens());
  float_dot<kBf16, kRows, float_columns_for<kRows>(Shape::kDimStep)>(
      tile.section.value.codes, tile.section.value.ahead, shape.tokens(), shape.dim(), tile.scores,
      shape.tokens(), [&](int r, uint32_t channel, Floats sum) __attribute__((always_inline)) {
        add_to_output(tile, block, r, channel, sum);
      });
}

// The steps of one block size, chosen once per call.
using BlockStep = void (*)(Tile&, RowBlock&);
struct BlockSteps {
  BlockStep query;  // once per call, or null
  BlockStep fold;   // once per section
  BlockStep score;
  BlockStep score_first;  // of the first block
  BlockStep weigh;
  BlockStep weigh_masked;
  BlockStep score_outliers;  // after score, or null
  BlockStep weigh_outliers;  // after weigh, or null
  BlockStep weigh_outliers_masked;
};

// Calls f for the form in which products find a codec's levels.
template <class Shape, class F>
void with_product_form(const CodecInfo& codec, bool unpacked, F f) {
  if constexpr (std::is_same_v<Shape, CommonShape>) {
    if (unpacked && codec.bits <= 4) return f(std::integral_constant<Form, kUnpacked>{});
  }
  if constexpr (kMatrices) {
    f(std::integral_constant<Form, Form{8}>{});
  } else {
    with_form(codec, f);
  }
}

template <int kRows, class Shape>
void choose_key_steps(const CodecInfo& codec, bool unpacked, BlockSteps* steps) {
  const bool rotated = codec.space == CodecSpace::kRotated;
  steps->query = rotated ? &quantise_queries<kRows, Shape> : nullptr;
  steps->fold = rotated                       ? &dot_means<kRows, Shape>
                : has_midpoints(codec.family) ? &fold_queries<kRows, Shape>
                                              : &plain_query;
  if constexpr (kServesAll) {
    if (codec.outliers) steps->score_outliers = &score_outliers<kRows, Shape>;
  }
  with_product_form<Shape>(codec, unpacked, [steps, rotated](auto form) {
    if constexpr (form().is_float()) {
      if constexpr (kServesAll) steps->score = &score_floats<form().bits == 16, kRows, Shape>;
    } else if constexpr (form().trellis) {
      steps->score = &score_quads<form(), true, kRows, Shape>;
    } else {
      steps->score =
          rotated ? &score_quads<form(), true, kRows, Shape> : &score_quads<form(), false, kRows, Shape>;
    }
  });
}

template <int kRows, class Shape>
void choose_value_steps(const CodecInfo& codec, bool unpacked, BlockSteps* steps) {
  if constexpr (kServesAll) {
    if (codec.outliers) {
      steps->weigh_outliers = &weigh_outliers<kRows, Shape, false>;
      steps->weigh_outliers_masked = &weigh_outliers<kRows, AnyShape, true>;
    }
  }
  with_product_form<Shape>(codec, unpacked, [steps, &codec](auto form) {
    if constexpr (form().is_float()) {
      if constexpr (kServesAll) {
        steps->weigh = &weigh_floats<form().bits == 16, kRows, Shape, false>;
        steps->weigh_masked = &weigh_floats<form().bits == 16, kRows, AnyShape, true>;
      }
    } else if (!has_midpoints(codec.family)) {
      steps->weigh = &weigh_codes<form(), kRows, Shape, false, false>;
      steps->weigh_masked = &weigh_codes<form(), kRows, AnyShape, false, true>;
    } else if constexpr (!form().trellis) {
      steps->weigh = &weigh_codes<form(), kRows, Shape, true, false>;
      steps->weigh_masked = &weigh_codes<form(), kRows, AnyShape, true, true>;
    }
  });
}

// Where keys meet queries: as they are folded, or turned in cache, to f32 or to 16 bits.
enum class KeyPath : uint8_t { kFolded, kFloats, kWords };

template <int kRows, class Shape>
BlockSteps choose_steps(const CodecInfo& key, const CodecInfo& value, KeyPath path, bool unpacked) {
  BlockSteps steps{};
  if (path == KeyPath::kFolded) choose_key_steps<kRows, Shape>(key, unpacked, &steps);
  if constexpr (kServesAll) {
    if (path == KeyPath::kFloats) {
      steps.fold = &turn_queries;
      steps.score = &score_rotated_keys<kRows>;
    }
    if (path == KeyPath::kWords) {
      steps.query = &measure_pairs;
      const bool rotated = key.family == CodecFamily::kRotated;
      steps.fold = rotated ? &turn_and_quantise<true, kRows> : &turn_and_quantise<false, kRows>;
      steps.score = &score_words<kRows>;
      steps.score_first = turning_score<kRows>(key);
    }
  }
  if (steps.score_first == nullptr) steps.score_first = steps.score;
  choose_value_steps<kRows, Shape>(value, unpacked, &steps);
  return steps;
}

// What loads a section's terms, for every block.
template <class Shape>
LoadTerms choose_load_keys(const CodecInfo& codec, KeyPath path) {
  if (codec.space == CodecSpace::kRotated) {
    return codec.family == CodecFamily::kTrellis ? &load_rotated_keys<true, Shape>
                                                 : &load_rotated_keys<false, Shape>;
  }
  if (!has_midpoints(codec.family)) return &load_nothing;
  if constexpr (kServesAll) {
    const bool turned = path != KeyPath::kFolded;
    if (codec.outliers) {
      return turned ? &load_channel_scales<true, true, Shape> : &load_channel_scales<true, false, Shape>;
    }
    if (turned) return &load_channel_scales<false, true, Shape>;
  }
  return &load_channel_scales<false, false, Shape>;
}
template <class Shape>
LoadTerms choose_load_values(const CodecInfo& codec) {
  if (codec.space == CodecSpace::kRotated) {
    return codec.family == CodecFamily::kTrellis ? &load_rotated_values<true, Shape>
                                                 : &load_rotated_values<false, Shape>;
  }
  if (!has_midpoints(codec.family)) return &load_nothing;
  if constexpr (kServesAll) {
    if (codec.outliers) return &load_token_scales<true, Shape>;
  }
  return &load_token_scales<false, Shape>;
}

// What unpacks one side's levels; null for floats, and for codes of 8 bits where vectors take them as levels.
template <Side kSide>
UnpackLevels choose_unpack(const CodecInfo& codec) {
  UnpackLevels unpack = nullptr;
  with_form(codec, [&unpack](auto form) {
    if constexpr (form().bits <= (kMatrices ? 8 : 4)) unpack = &unpack_levels<kSide, form()>;
  });
  return unpack;
}

// Blocks' steps by log2 of their rows.
struct StepTable {
  LoadTerms load_keys;
  LoadTerms load_values;
  UnpackLevels unpack_keys;  // once per section, or null
  UnpackLevels unpack_values;
  BlockSteps by_rows[4];
  const BlockSteps& of(const RowBlock& block) const { return by_rows[std::countr_zero(block.rows)]; }
};

template <class Shape>
StepTable choose_table(const CodecInfo& key, const CodecInfo& value, KeyPath path, bool unpacked) {
  StepTable table{};
  if (unpacked) {
    if (path == KeyPath::kFolded) table.unpack_keys = choose_unpack<Side::kKey>(key);
    table.unpack_values = choose_unpack<Side::kValue>(value);
  }
  table.load_keys = choose_load_keys<Shape>(key, path);
  table.load_values = choose_load_values<Shape>(value);
  table.by_rows[0] = choose_steps<1, Shape>(key, value, path, unpacked);
  table.by_rows[1] = choose_steps<2, Shape>(key, value, path, unpacked);
  if constexpr (kMaxBlockRows >= 4) table.by_rows[2] = choose_steps<4, Shape>(key, value, path, unpacked);
  if constexpr (kMaxBlockRows >= 8) table.by_rows[3] = choose_steps<8, Shape>(key, value, path, unpacked);
  return table;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
