// The codecs: how one side (keys or values) of one section becomes bytes.
//
// Everything here is constexpr data. FORMATS.md is the normative description of the bytes; this header
// only names the codecs and computes their sizes. Thread safety: pure values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace quire {

// Stored in page headers: values are pinned, never reuse one.
enum class CodecId : uint8_t {
  kF32 = 1,   // exact; the yardstick of tests
  kBf16 = 2,  // round to nearest even
  kInt8 = 8,  // uniform levels: keys per channel, values per token; f16 scale and midpoint
  kInt4 = 9,
  kInt3 = 10,
  kInt2 = 11,
  kRot4 = 16,  // balanced rotation: page mean, one scale per token, Lloyd-Max levels
  kRot3 = 17,
  kRot2 = 18,
  kTcq4 = 24,  // the same rotation and mean, levels on the paths of a trellis
  kTcq3 = 25,
  kTcq2 = 26,
  kTcq1 = 27,
  kNuq4 = 32,  // non-uniform levels of the layer: groups as the uniform codecs
  kNuq3 = 33,
  kNuq2 = 34,
  kNuq4s = 36,  // the same, and one sparse outlier per token of keys and per channel of values
  kNuq3s = 37,
  kNuq2s = 38,
};

// Where a codec's values live. Rotated codecs encode H diag(s) k and H v, not k and v themselves.
enum class CodecSpace : uint8_t { kPlain, kRotated };

enum class CodecFamily : uint8_t { kFloat, kUniform, kRotated, kTrellis, kNonUniform };

struct CodecInfo {
  CodecId id;
  std::string_view name;
  CodecFamily family;
  CodecSpace space;
  uint8_t bits;           // bits of one code
  bool lossless_bf16;     // a page of this codec needs no unfolded sinks beside it
  bool outliers = false;  // keeps one value per lane (token of keys, channel of values) apart from its code
};

inline constexpr std::array<CodecInfo, 19> kCodecs{{
    {CodecId::kF32, "f32", CodecFamily::kFloat, CodecSpace::kPlain, 32, true},
    {CodecId::kBf16, "bf16", CodecFamily::kFloat, CodecSpace::kPlain, 16, true},
    {CodecId::kInt8, "int8", CodecFamily::kUniform, CodecSpace::kPlain, 8, false},
    {CodecId::kInt4, "int4", CodecFamily::kUniform, CodecSpace::kPlain, 4, false},
    {CodecId::kInt3, "int3", CodecFamily::kUniform, CodecSpace::kPlain, 3, false},
    {CodecId::kInt2, "int2", CodecFamily::kUniform, CodecSpace::kPlain, 2, false},
    {CodecId::kRot4, "rot4", CodecFamily::kRotated, CodecSpace::kRotated, 4, false},
    {CodecId::kRot3, "rot3", CodecFamily::kRotated, CodecSpace::kRotated, 3, false},
    {CodecId::kRot2, "rot2", CodecFamily::kRotated, CodecSpace::kRotated, 2, false},
    {CodecId::kTcq4, "tcq4", CodecFamily::kTrellis, CodecSpace::kRotated, 4, false},
    {CodecId::kTcq3, "tcq3", CodecFamily::kTrellis, CodecSpace::kRotated, 3, false},
    {CodecId::kTcq2, "tcq2", CodecFamily::kTrellis, CodecSpace::kRotated, 2, false},
    {CodecId::kTcq1, "tcq1", CodecFamily::kTrellis, CodecSpace::kRotated, 1, false},
    {CodecId::kNuq4, "nuq4", CodecFamily::kNonUniform, CodecSpace::kPlain, 4, false},
    {CodecId::kNuq3, "nuq3", CodecFamily::kNonUniform, CodecSpace::kPlain, 3, false},
    {CodecId::kNuq2, "nuq2", CodecFamily::kNonUniform, CodecSpace::kPlain, 2, false},
    {CodecId::kNuq4s, "nuq4s", CodecFamily::kNonUniform, CodecSpace::kPlain, 4, false, true},
    {CodecId::kNuq3s, "nuq3s", CodecFamily::kNonUniform, CodecSpace::kPlain, 3, false, true},
    {CodecId::kNuq2s, "nuq2s", CodecFamily::kNonUniform, CodecSpace::kPlain, 2, false, true},
}};

// nullptr when no codec has this id or name.
constexpr const CodecInfo* find_codec(CodecId id) {
  for (const CodecInfo& info : kCodecs) {
    if (info.id == id) return &info;
  }
  return nullptr;
}
constexpr const CodecInfo* find_codec(std::string_view name) {
  for (const CodecInfo& info : kCodecs) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

// The codec of one side, and for non-uniform codecs the layer's levels on that side: 2^bits of them, strictly
// ascending within -127..127, that outlive whoever holds this; nullptr for the default ones.
struct SideCodec {
  // NOLINTNEXTLINE(google-explicit-constructor): a codec without a table is a codec
  constexpr SideCodec(CodecId codec, const int8_t* table = nullptr) : id(codec), levels(table) {}
  CodecId id;
  const int8_t* levels;
};

// Codecs whose groups (channels of keys, tokens of values) have a scale and a midpoint in half precision.
constexpr bool has_midpoints(CodecFamily family) {
  return family == CodecFamily::kUniform || family == CodecFamily::kNonUniform;
}

enum class Side : uint8_t { kKey, kValue };

// Tokens and channels of one section. tokens in {32, 64, 128}; dim in 32..256 in steps of 32.
struct SectionShape {
  uint32_t tokens;
  uint32_t dim;
};

constexpr bool valid_shape(SectionShape s) {
  return (s.tokens == 32 || s.tokens == 64 || s.tokens == 128) && s.dim >= 32 && s.dim <= 256 &&
         s.dim % 32 == 0;
}

// Bytes of the code array of one side: all codes, no metadata. Always a multiple of 64.
constexpr size_t code_bytes(const CodecInfo& codec, SectionShape s) {
  return size_t{s.tokens} * s.dim * codec.bits / 8;
}

// Bytes of the metadata array of one side (scales, midpoints, means): see FORMATS.md.
constexpr size_t meta_bytes(const CodecInfo& codec, Side side, SectionShape s) {
  switch (codec.family) {
    case CodecFamily::kFloat:
      return 0;
    case CodecFamily::kUniform:  // f16 scale, f16 midpoint
      return size_t{4} * (side == Side::kKey ? s.dim : s.tokens);
    case CodecFamily::kRotated:  // u8 scale per token, i8 mean per channel
    case CodecFamily::kTrellis:
      return size_t{s.tokens} + s.dim;
    case CodecFamily::kNonUniform: {  // f16 scale and midpoint per group; u16 per outlier
      const size_t groups = side == Side::kKey ? s.dim : s.tokens;
      const size_t lanes = side == Side::kKey ? s.tokens : s.dim;
      return 4 * groups + (codec.outliers ? 2 * lanes : 0);
    }
  }
  return 0;
}

}  // namespace quire
