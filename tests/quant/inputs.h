// Kinds of section contents that codecs must cope with, each a pure function of shape and seed.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "quant/codec.h"

namespace quire::test {

struct InputKind {
  std::string_view name;
  std::vector<float> (*make)(SectionShape shape, uint64_t seed);
};

extern const std::array<InputKind, 12> kInputKinds;

// In the codec's own space: what a cache would hand to encode. Rotated codecs get rotated values.
std::vector<float> codec_input(const InputKind& kind, CodecId codec, SectionShape shape, uint64_t seed);

}  // namespace quire::test
