// The levels of every codec of up to 4 bits as bytes, made at compile time. Thread safety: constants.
#pragma once

#include <array>

#include "quant/codec.h"
#include "quant/cpu/quad_dot-inl.h"
#include "quant/levels.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Uniform keys have half-integer centres. Up to 4 bits their levels are 2 code - N and their scales halved;
// at 8 bits that would not fit a byte, and levels are code - 128, half a level below the centre.
constexpr int32_t level_of(const CodecInfo& codec, Side side, uint32_t code) {
  const auto signed_code = static_cast<int32_t>(code);
  if (codec.family == CodecFamily::kRotated) return level_table(codec.bits).levels[code];
  if (side == Side::kKey) return 2 * signed_code - ((1 << codec.bits) - 1);
  return signed_code - (1 << (codec.bits - 1));
}

constexpr LevelBytes make_level_bytes(const CodecInfo& codec, Side side) {
  LevelBytes table{};
  if (codec.bits > 4) return table;
  for (uint32_t i = 0; i < sizeof(table.bytes); ++i) {
    const int32_t level = level_of(codec, side, i % (1U << codec.bits));
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

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
