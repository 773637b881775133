// The levels of every codec of up to 4 bits as bytes, made at compile time. Thread safety: constants.
#pragma once

#include <array>

#include "quant/codec.h"
#include "quant/cpu/quad_dot-inl.h"
#include "quant/levels.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Uniform keys have half-integer centres. Up to 4 bits their levels are 2 code - N and their scales halved;
// at 8 bits that would not fit a byte, and levels are code - 128, half a level below the centre. `code` of a
// trellis codec is the index that its window makes.
constexpr int32_t level_of(const CodecInfo& codec, Side side, uint32_t code) {
  const auto signed_code = static_cast<int32_t>(code);
  if (codec.family == CodecFamily::kRotated) return level_table(codec.bits).levels[code];
  if (codec.family == CodecFamily::kTrellis) return trellis_of(codec.bits).levels[code];
  if (side == Side::kKey) return 2 * signed_code - ((1 << codec.bits) - 1);
  return signed_code - (1 << (codec.bits - 1));
}

constexpr LevelBytes make_level_bytes(const CodecInfo& codec, Side side) {
  LevelBytes table{};
  if (codec.bits > 4) return table;
  const uint32_t entries = codec.family == CodecFamily::kTrellis ? kTrellisLevels : 1U << codec.bits;
  for (uint32_t i = 0; i < sizeof(table.bytes); ++i) {
    const int32_t level = level_of(codec, side, i % entries);
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

// Levels of uniform keys that are turned in 16 bits: signed, and as large as a byte holds.
constexpr int32_t turned_level_scale(uint32_t bits) { return 127 / ((1 << bits) - 1); }

constexpr LevelBytes make_turned_level_bytes(uint32_t bits) {
  LevelBytes table{};
  for (uint32_t i = 0; i < sizeof(table.bytes); ++i) {
    const auto code = static_cast<int32_t>(i % (1U << bits));
    table.bytes[i] = static_cast<uint8_t>((2 * code - ((1 << bits) - 1)) * turned_level_scale(bits));
  }
  return table;
}

inline constexpr std::array<LevelBytes, 3> kTurnedLevelBytes{
    make_turned_level_bytes(2), make_turned_level_bytes(3), make_turned_level_bytes(4)};

// bits: 2, 3 or 4.
inline const LevelBytes& turned_level_bytes(uint32_t bits) { return kTurnedLevelBytes[bits - 2]; }

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
