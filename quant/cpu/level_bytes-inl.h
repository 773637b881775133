// The levels of every codec of up to 4 bits as bytes, made at compile time unless a layer brings its own.
// Thread safety: constants.
#pragma once

#include <array>

#include "quant/codec.h"
#include "quant/cpu/quad_dot-inl.h"
#include "quant/levels.h"
#include "quant/nuq_levels.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Uniform keys have half-integer centres. Up to 4 bits their levels are 2 code - N and their scales halved;
// at 8 bits that would not fit a byte, and levels are code - 128, half a level below the centre. `code` of a
// trellis codec is the index that its window makes.
constexpr int32_t level_of(const CodecInfo& codec, Side side, uint32_t code, const int8_t* of_layer) {
  const auto signed_code = static_cast<int32_t>(code);
  if (codec.family == CodecFamily::kRotated) return level_table(codec.bits).levels[code];
  if (codec.family == CodecFamily::kTrellis) return trellis_of(codec.bits).levels[code];
  if (codec.family == CodecFamily::kNonUniform) return nuq_levels(codec.bits, side, of_layer)[code];
  if (side == Side::kKey) return 2 * signed_code - ((1 << codec.bits) - 1);
  return signed_code - (1 << (codec.bits - 1));
}

// of_layer: the layer's own levels, or nullptr.
constexpr LevelBytes make_level_bytes(const CodecInfo& codec, Side side, const int8_t* of_layer = nullptr) {
  LevelBytes table{};
  if (codec.bits > 4) return table;
  const uint32_t entries = codec.family == CodecFamily::kTrellis ? kTrellisLevels : 1U << codec.bits;
  for (uint32_t i = 0; i < sizeof(table.bytes); ++i) {
    const int32_t level = level_of(codec, side, i % entries, of_layer);
    table.bytes[i] = static_cast<uint8_t>(side == Side::kKey ? level + kKeyBias : level);
  }
  return table;
}

constexpr std::array<LevelBytes, kCodecs.size()> make_all_level_bytes(Side side) {
  std::array<LevelBytes, kCodecs.size()> tables{};
  for (size_t i = 0; i < kCodecs.size(); ++i) tables[i] = make_level_bytes(kCodecs[i], side);
  return tables;
}

inline constexpr auto kKeyLevelBytes = make_all_level_bytes(Side::kKey);
inline constexpr auto kValueLevelBytes = make_all_level_bytes(Side::kValue);

// codec: an element of kCodecs.
inline const LevelBytes& level_bytes(const CodecInfo& codec, Side side) {
  const auto index = static_cast<size_t>(&codec - kCodecs.data());
  return side == Side::kKey ? kKeyLevelBytes[index] : kValueLevelBytes[index];
}

// Levels of keys per channel that are turned in 16 bits: signed, and as large as a byte holds.
struct TurnedLevels {
  LevelBytes bytes;
  float top;    // the largest level in the units of a channel's scale
  float words;  // one such level in the upper half of a word
};

constexpr TurnedLevels make_turned_levels(const CodecInfo& codec, const int8_t* of_layer) {
  const int32_t last = (1 << codec.bits) - 1;
  const bool uniform = codec.family == CodecFamily::kUniform;
  const int32_t stretch = uniform ? 127 / last : 1;
  TurnedLevels levels{};
  for (uint32_t i = 0; i < sizeof(levels.bytes.bytes); ++i) {
    const int32_t level = level_of(codec, Side::kKey, i % (1U << codec.bits), of_layer);
    levels.bytes.bytes[i] = static_cast<uint8_t>(level * stretch);
  }
  levels.top = uniform ? static_cast<float>(last) : 127.0F;
  levels.words = static_cast<float>(256 * stretch);
  return levels;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
