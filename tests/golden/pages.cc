#include "tests/golden/pages.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <memory>
#include <new>

#include "quant/bytes.h"
#include "quant/section_exponent.h"
#include "quant/steps.h"

namespace quire::golden {
namespace {

constexpr uint64_t kParamsHash = 0x0123456789ABCDEF;

// In pairs of tokens with falling exponents, dense where rotated codecs flush a token's scale.
int fading_shift(uint32_t token) {
  const auto pair = static_cast<int>(token / 2);
  if (pair == 0) return 0;
  return pair < 9 ? pair + 9 : 8 * (pair - 5);
}

// An f32 whose sign and low bits are the draw's: half of them above the largest bf16, half of them anywhere
// from 2^127 on.
float huge(uint32_t draw) {
  const uint32_t fraction = (draw & 0x10000U) != 0 ? draw & 0x7FFFFFU : 0x7F0000U | (draw & 0xFFFFU);
  return std::bit_cast<float>((draw & 0x80000000U) | 0x7F000000U | fraction);
}

// A level that the residuals of rot4, rot3 and rot2 take when all of a token's are alike.
float common_level(uint32_t seed) {
  constexpr std::array<float, 3> kLevels{44.0F, 45.0F, 127.0F};
  return kLevels[seed / 16 % 3];
}

float value_of(const PageSpec& spec, uint32_t draw, uint32_t token, uint32_t channel) {
  const int32_t integer = static_cast<int32_t>(draw >> 8) - (1 << 23);
  const uint32_t step = spec.seed % kStepsPerOctave;
  switch (spec.fill) {
    case Fill::kFlat:
      return std::ldexp(static_cast<float>(integer), -21);
    case Fill::kChannels: {
      const int32_t shifted = integer / 2 + (channel % 4 == 1 ? 1 << 22 : 0);
      return std::ldexp(static_cast<float>(shifted), static_cast<int>(channel * 5 % 7) - 22);
    }
    case Fill::kTokens:
      return std::ldexp(static_cast<float>(integer), -21 - static_cast<int>(token % 23));
    case Fill::kWild:  // clearing the top exponent bit now and then leaves no infinity and no NaN
      return std::bit_cast<float>((draw & 0x7F800000U) == 0x7F800000U ? draw & 0xBFFF0000U
                                                                      : draw & 0xFFFF0000U);
    case Fill::kSubnormal: {
      const int32_t small = integer / 4096;
      return std::ldexp(static_cast<float>(small), -149);
    }
    case Fill::kConstant:
      return 1.5F;
    case Fill::kZeros:
      return (draw & 0x80000000U) == 0 ? 0.0F : -0.0F;
    case Fill::kHuge:
      return huge(draw);
    case Fill::kFading:
      return std::ldexp(static_cast<float>(integer), -21 - fading_shift(token));
    case Fill::kWhisper: {
      const bool last_pair = token / 2 + 1 == spec.header.kind.shape.tokens / 2;
      return std::ldexp(static_cast<float>(integer),
                        last_pair ? -74 - 2 * static_cast<int>(spec.seed % 4) : -21);
    }
    case Fill::kMeanStep:
      return channel == 0 ? 127.0F * kStepMantissa[step] : 0.0F;
    case Fill::kScaleStep:
      return channel == 0 ? common_level(spec.seed) * kStepBoundary[step] : 0.0F;
  }
  return 0.0F;
}

// Odd tokens that are the negative of the token before: together they leave no mean.
bool is_mirrored(const PageSpec& spec, uint32_t token) {
  if (token % 2 == 0) return false;
  if (spec.fill == Fill::kWhisper) return token + 1 != spec.header.kind.shape.tokens;
  return spec.fill == Fill::kFading || spec.fill == Fill::kScaleStep;
}

// The inputs of one side of one section, before any rotation.
std::vector<float> plain_values(const PageSpec& spec, uint32_t head, Side side) {
  const SectionShape shape = spec.header.kind.shape;
  uint32_t state = spec.seed + 2 * head + (side == Side::kValue ? 1 : 0);
  std::vector<float> values;
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      state = state * 1664525U + 1013904223U;
      values.push_back(is_mirrored(spec, token) ? -values[values.size() - shape.dim]
                                                : value_of(spec, state, token, channel));
    }
  }
  return values;
}

std::vector<float> balance_of(uint32_t dim) {
  std::vector<float> diag(dim);
  for (uint32_t channel = 0; channel < dim; ++channel)
    diag[channel] = static_cast<float>(1 + channel % 5) / 4;
  return diag;
}

std::vector<float> codec_values(const Kernels& kernels, const PageSpec& spec, uint32_t head, Side side) {
  const PageKind& kind = spec.header.kind;
  std::vector<float> values = plain_values(spec, head, side);
  const CodecInfo& codec = *find_codec(side == Side::kKey ? kind.key_codec : kind.value_codec);
  if (const float largest = largest_input(codec.family); largest > 0) {
    for (float& x : values) x = std::clamp(x, -largest, largest);
  }
  if (codec.space == CodecSpace::kRotated) {
    const std::vector<float> diag = balance_of(kind.shape.dim);
    const bool balanced = spec.balanced && side == Side::kKey;
    kernels.rotate(values.data(), kind.shape.tokens, kind.shape.dim, balanced ? diag.data() : nullptr,
                   values.data());
  }
  return values;
}

// Levels that a layer could bring: not centred, of unequal gaps, far from the ends.
std::array<int8_t, 16> own_levels(Side side) {
  std::array<int8_t, 16> levels{};
  for (int i = 0; i < 16; ++i) {
    levels[static_cast<size_t>(i)] =
        static_cast<int8_t>(side == Side::kKey ? 13 * i + i % 3 - 101 : 9 * i - 60);
  }
  return levels;
}

struct AlignedFree {
  void operator()(uint8_t* bytes) const { ::operator delete (bytes, std::align_val_t{kPageAlign}); }
};
using AlignedBytes = std::unique_ptr<uint8_t, AlignedFree>;

AlignedBytes aligned_zeros(size_t n) {
  AlignedBytes bytes(static_cast<uint8_t*>(::operator new (n, std::align_val_t{kPageAlign})));
  std::fill_n(bytes.get(), n, uint8_t{0});
  return bytes;
}

void store_sinks(const Kernels& kernels, const PageKind& kind, const std::vector<float>& values,
                 uint8_t* at) {
  const size_t n = size_t{kind.sink_tokens} * kind.shape.dim;
  kernels.f32_to_bf16(values.data(), n, reinterpret_cast<uint16_t*>(at));
}

// Little-endian f32 of the tokens that are not sinks.
uint64_t decoded_sum(const PageKind& kind, const std::vector<float>& decoded) {
  const size_t first = size_t{kind.sink_tokens} * kind.shape.dim;
  return XXH3_64bits(decoded.data() + first, (decoded.size() - first) * sizeof(float));
}

struct Section {
  SectionEntry entry;
  DecodedSums decoded;
};

Section write_section(const Kernels& kernels, const PageSpec& spec, uint32_t head, uint8_t* bytes) {
  const PageKind& kind = spec.header.kind;
  const SectionLayout layout = page_layout(kind).section;
  const std::vector<float> keys = codec_values(kernels, spec, head, Side::kKey);
  const std::vector<float> values = codec_values(kernels, spec, head, Side::kValue);
  const std::array<int8_t, 16> key_levels = own_levels(Side::kKey);
  const std::array<int8_t, 16> value_levels = own_levels(Side::kValue);
  const SideCodec key_codec{kind.key_codec, spec.own_levels ? key_levels.data() : nullptr};
  const SideCodec value_codec{kind.value_codec, spec.own_levels ? value_levels.data() : nullptr};
  Section section{};
  kernels.encode_key(key_codec, kind.shape, keys.data(), kind.sink_tokens, bytes + layout.key_codes,
                     bytes + layout.key_meta, &section.entry.key_param);
  kernels.encode_value(value_codec, kind.shape, values.data(), kind.sink_tokens, bytes + layout.value_codes,
                       bytes + layout.value_meta, &section.entry.value_param);
  if (spec.params) {
    section.entry.key_param = spec.params->key;
    section.entry.value_param = spec.params->value;
  }
  store_sinks(kernels, kind, keys, bytes + layout.sink_keys);
  store_sinks(kernels, kind, values, bytes + layout.sink_values);
  section.entry.checksum =
      section_checksum({bytes, layout.bytes}, section.entry.key_param, section.entry.value_param);

  std::vector<float> decoded(keys.size());
  kernels.decode_key(key_codec, kind.shape,
                     {bytes + layout.key_codes, bytes + layout.key_meta, section.entry.key_param},
                     decoded.data());
  section.decoded.keys = decoded_sum(kind, decoded);
  kernels.decode_value(value_codec, kind.shape,
                       {bytes + layout.value_codes, bytes + layout.value_meta, section.entry.value_param},
                       decoded.data());
  section.decoded.values = decoded_sum(kind, decoded);
  return section;
}

PageSpec spec_of(CodecId key, CodecId value, SectionShape shape, Fill fill, uint32_t seed) {
  return {.header = {.kind = {.key_codec = key,
                              .value_codec = value,
                              .key_space = KeySpace::kPostRope,
                              .sink_tokens = 0,
                              .kv_heads = 1,
                              .shape = shape},
                     .token_count = static_cast<uint8_t>(shape.tokens),
                     .rope_epoch = seed,
                     .layer_params_hash = kParamsHash + seed},
          .fill = fill,
          .seed = seed,
          .balanced = false,
          .whole_bytes = false};
}

}  // namespace

std::string_view fill_name(Fill fill) {
  constexpr std::array<std::string_view, 12> kNames{"flat",      "channels", "tokens",    "wild",
                                                    "subnormal", "constant", "zeros",     "huge",
                                                    "fading",    "whisper",  "mean_step", "scale_step"};
  return kNames[static_cast<size_t>(fill)];
}

using AddSpec = std::function<PageSpec&(CodecId key, CodecId value, SectionShape shape, Fill fill)>;

// Where rounding, flushing and saturation take turns.
void add_edges(const AddSpec& add) {
  for (const CodecInfo& codec : kCodecs) {
    if (codec.family == CodecFamily::kTrellis || codec.family == CodecFamily::kNonUniform) continue;
    PageSpec& spec = add(codec.id, codec.id, {32, 64}, Fill::kHuge);
    spec.header.kind.sink_tokens = codec.bits == 32 ? 0 : 2;
    spec.whole_bytes = codec.id == CodecId::kBf16;
  }
  for (const CodecId codec : {CodecId::kRot4, CodecId::kRot3, CodecId::kRot2}) {
    add(codec, codec, {32, 32}, Fill::kFading).header.kind.kv_heads = 5;
    for (int i = 0; i < 4; ++i) add(codec, codec, {32, 32}, Fill::kWhisper);
  }
}

// Every entry of the tables of logarithmic steps, met exactly or as nearly as f32 has it.
void add_steps(const AddSpec& add) {
  constexpr std::array<CodecId, 3> kRotated{CodecId::kRot4, CodecId::kRot3, CodecId::kRot2};
  for (uint32_t i = 0; i < kStepsPerOctave; ++i) {
    PageSpec& mean = add(kRotated[i % 3], kRotated[(i + 1) % 3], {32, 64}, Fill::kMeanStep);
    mean.header.kind.sink_tokens = 31;
    mean.seed = i;
    for (uint32_t level = 0; level < 3; ++level) {
      add(kRotated[level], kRotated[level], {32, 64}, Fill::kScaleStep).seed = 16 * level + i;
    }
  }
}

// Headers of one, two and three blocks; params that no writer writes.
void add_foreign(const AddSpec& add) {
  PageSpec& three = add(CodecId::kRot2, CodecId::kRot2, {32, 32}, Fill::kFlat);
  three.header.kind.kv_heads = 3;
  three.whole_bytes = true;
  add(CodecId::kInt3, CodecId::kRot4, {32, 32}, Fill::kFlat).header.kind.kv_heads = 6;
  add(CodecId::kRot4, CodecId::kInt2, {32, 32}, Fill::kFlat).header.kind.kv_heads = 7;

  const auto as_u32 = [](int32_t x) { return static_cast<uint32_t>(x); };
  const auto steps = [](int scale, int mean) {
    return uint32_t{static_cast<uint16_t>(scale)} | uint32_t{static_cast<uint16_t>(mean)} << 16;
  };
  const SectionShape small{32, 32};
  add(CodecId::kInt8, CodecId::kInt4, small, Fill::kFlat).params = {200, as_u32(-1000)};
  add(CodecId::kInt2, CodecId::kInt3, small, Fill::kFlat).params = {as_u32(INT32_MIN), as_u32(INT32_MAX)};
  add(CodecId::kRot4, CodecId::kRot2, small, Fill::kChannels).params = {steps(3000, 0), steps(-3000, 32767)};
  add(CodecId::kRot3, CodecId::kRot4, small, Fill::kChannels).params = {steps(-32768, -32768),
                                                                        steps(5, 2047)};
  add(CodecId::kBf16, CodecId::kF32, small, Fill::kFlat).params = {7, UINT32_MAX};
}

// The trellis codecs: the same kinds of pages.
void add_trellis(const AddSpec& add) {
  constexpr std::array<CodecId, 4> kTrellis{CodecId::kTcq4, CodecId::kTcq3, CodecId::kTcq2, CodecId::kTcq1};
  for (const CodecId codec : kTrellis) {
    add(codec, codec, {32, 32}, Fill::kChannels).whole_bytes = true;
    PageSpec& sinks = add(codec, codec, {32, 64}, Fill::kChannels);
    sinks.header.kind.sink_tokens = 5;
    sinks.header.kind.kv_heads = 2;
    sinks.header.token_count = 20;
    sinks.balanced = true;
    add(codec, codec, {32, 64}, Fill::kHuge).header.kind.sink_tokens = 2;
    add(codec, codec, {32, 32}, Fill::kChannels).header.kind.sink_tokens = 32;
    for (const Fill fill : {Fill::kFlat, Fill::kTokens, Fill::kWild, Fill::kSubnormal, Fill::kConstant,
                            Fill::kZeros, Fill::kFading, Fill::kWhisper, Fill::kScaleStep}) {
      add(codec, codec, {32, 32}, fill).balanced = true;
    }
  }
  add(CodecId::kTcq3, CodecId::kTcq2, {64, 128}, Fill::kChannels).balanced = true;
  add(CodecId::kTcq4, CodecId::kTcq1, {128, 96}, Fill::kChannels).balanced = true;
  add(CodecId::kTcq1, CodecId::kTcq3, {32, 256}, Fill::kChannels).balanced = true;
  add(CodecId::kTcq2, CodecId::kTcq4, {64, 32}, Fill::kChannels).balanced = true;

  const auto param = [](int scale, int mean, uint32_t mantissa_bits) {
    return uint32_t{static_cast<uint16_t>(scale)} | (static_cast<uint32_t>(mean) & 0x3FFFU) << 16 |
           (mantissa_bits - 4) << 30;
  };
  const SectionShape small{32, 32};
  add(CodecId::kTcq4, CodecId::kTcq2, small, Fill::kChannels).params = {param(32767, 0, 7),
                                                                        param(-32768, 8191, 4)};
  add(CodecId::kTcq3, CodecId::kTcq1, small, Fill::kChannels).params = {param(-16200, -8192, 5),
                                                                        param(16255, 1900, 6)};
}

// Every non-uniform codec on every kind of input, with the default levels and with a layer's own, with sinks
// and without, in both key spaces, at the shapes of real models; an outlier of a group that does not exist.
void add_nonuniform(const AddSpec& add) {
  constexpr std::array<Fill, 8> kFills{Fill::kChannels,  Fill::kFlat,     Fill::kTokens, Fill::kWild,
                                       Fill::kSubnormal, Fill::kConstant, Fill::kZeros,  Fill::kHuge};
  for (const CodecInfo& codec : kCodecs) {
    if (codec.family != CodecFamily::kNonUniform) continue;
    for (const Fill fill : kFills) {
      PageSpec& spec = add(codec.id, codec.id, {32, fill == Fill::kChannels ? 32U : 96U}, fill);
      spec.whole_bytes = fill == Fill::kChannels;
      spec.header.kind.sink_tokens = fill == Fill::kHuge ? 2 : 0;
    }
    for (const Fill fill : {Fill::kFlat, Fill::kTokens, Fill::kWild}) {
      PageSpec& spec = add(codec.id, codec.id, {64, 128}, fill);
      spec.own_levels = true;
      spec.header.kind.sink_tokens = fill == Fill::kTokens ? 4 : 0;
      spec.header.kind.key_space = fill == Fill::kFlat ? KeySpace::kPreRope : KeySpace::kPostRope;
    }
  }
  add(CodecId::kNuq4, CodecId::kNuq3s, {128, 64}, Fill::kChannels);
  add(CodecId::kNuq2s, CodecId::kRot3, {32, 256}, Fill::kChannels).header.kind.sink_tokens = 32;
  add(CodecId::kNuq3s, CodecId::kNuq2s, {32, 256}, Fill::kTokens).header.kind.sink_tokens = 31;
}

std::vector<PageSpec> page_specs() {
  std::vector<PageSpec> specs;
  uint32_t seed = 1;
  const auto add = [&](CodecId key, CodecId value, SectionShape shape, Fill fill) -> PageSpec& {
    specs.push_back(spec_of(key, value, shape, fill, seed++));
    return specs.back();
  };

  // Small pages of each codec, byte for byte.
  for (const CodecInfo& codec : kCodecs) {
    if (codec.family == CodecFamily::kTrellis || codec.family == CodecFamily::kNonUniform) continue;
    add(codec.id, codec.id, {32, 32}, Fill::kChannels).whole_bytes = true;
  }

  // Sinks, several heads, a balance, pre_rope keys, a page that is not full.
  for (const CodecId codec : {CodecId::kRot4, CodecId::kRot3, CodecId::kRot2, CodecId::kInt4}) {
    PageSpec& spec = add(codec, codec, {32, 64}, Fill::kChannels);
    spec.header.kind.sink_tokens = 4;
    spec.header.kind.kv_heads = 2;
    spec.header.token_count = 20;
    spec.header.kind.key_space = codec == CodecId::kInt4 ? KeySpace::kPreRope : KeySpace::kPostRope;
    spec.balanced = true;
    spec.whole_bytes = codec == CodecId::kRot4;
  }

  // Every codec on every kind of input.
  for (const CodecInfo& codec : kCodecs) {
    if (codec.family == CodecFamily::kTrellis || codec.family == CodecFamily::kNonUniform) continue;
    for (const Fill fill :
         {Fill::kFlat, Fill::kTokens, Fill::kWild, Fill::kSubnormal, Fill::kConstant, Fill::kZeros}) {
      add(codec.id, codec.id, {32, 96}, fill).balanced = true;
    }
  }

  // Pairs of interest at the shapes of real models.
  constexpr std::array<std::array<CodecId, 2>, 8> kPairs{{{CodecId::kRot4, CodecId::kRot4},
                                                          {CodecId::kRot4, CodecId::kRot3},
                                                          {CodecId::kRot3, CodecId::kRot2},
                                                          {CodecId::kRot2, CodecId::kInt2},
                                                          {CodecId::kInt8, CodecId::kInt4},
                                                          {CodecId::kInt3, CodecId::kRot4},
                                                          {CodecId::kBf16, CodecId::kRot3},
                                                          {CodecId::kF32, CodecId::kInt8}}};
  for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{128, 64}, SectionShape{32, 256}}) {
    for (const auto& [key, value] : kPairs) {
      PageSpec& spec = add(key, value, shape, Fill::kChannels);
      spec.header.kind.sink_tokens = shape.tokens == 64 ? 4 : shape.tokens == 32 ? 32 : 0;
      spec.balanced = true;
    }
  }
  add_edges(add);
  add_steps(add);
  add_foreign(add);
  add_trellis(add);
  add_nonuniform(add);
  return specs;
}

Page make_page(const Kernels& kernels, const PageSpec& spec) {
  const PageLayout layout = page_layout(spec.header.kind);
  const AlignedBytes bytes = aligned_zeros(layout.bytes);
  Page page;
  std::vector<SectionEntry> entries;
  for (uint32_t head = 0; head < spec.header.kind.kv_heads; ++head) {
    uint8_t* section = bytes.get() + layout.header_bytes + size_t{layout.section.bytes} * head;
    const Section written = write_section(kernels, spec, head, section);
    entries.push_back(written.entry);
    page.decoded.push_back(written.decoded);
  }
  write_page_header(spec.header, entries, {bytes.get(), layout.header_bytes});
  page.bytes.assign(bytes.get(), bytes.get() + layout.bytes);
  return page;
}

}  // namespace quire::golden
