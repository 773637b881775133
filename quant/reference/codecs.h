// The scalar codecs, one pair of functions per family. They serve both sides: a Side tells where codes lie
// and along which axis scales run.
//
// x and out: [shape.tokens][dim] f32 in the codec's space. codes and meta: code_bytes and meta_bytes long,
// written whole. Tokens below `first` are left out. Thread safety: pure functions on their arguments.
#pragma once

#include "quant/codec.h"
#include "quant/kernels.h"

namespace quire::reference {

void encode_float(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                  uint8_t* codes);
void decode_float(const CodecInfo& codec, Side side, SectionShape shape, const uint8_t* codes, float* out);

// Return the side's param.
uint32_t encode_uniform(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta);
uint32_t encode_rotated(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta);
uint32_t encode_trellis(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                        uint8_t* codes, uint8_t* meta);
// levels: [2^bits], or nullptr for the default ones.
uint32_t encode_nonuniform(const CodecInfo& codec, Side side, SectionShape shape, const int8_t* levels,
                           const float* x, uint32_t first, uint8_t* codes, uint8_t* meta);

void decode_uniform(const CodecInfo& codec, Side side, SectionShape shape, const SideView& view, float* out);
void decode_rotated(const CodecInfo& codec, Side side, SectionShape shape, const SideView& view, float* out);
void decode_trellis(const CodecInfo& codec, Side side, SectionShape shape, const SideView& view, float* out);
void decode_nonuniform(const CodecInfo& codec, Side side, SectionShape shape, const int8_t* levels,
                       const SideView& view, float* out);

// The section exponent over tokens >= first.
int section_exponent_of(SectionShape shape, const float* x, uint32_t first);

// Both sides of a codec by family.
void encode_side(SideCodec side_codec, Side side, SectionShape shape, const float* x, uint32_t first,
                 uint8_t* codes, uint8_t* meta, uint32_t* param);
void decode_side(SideCodec side_codec, Side side, SectionShape shape, const SideView& view, float* out);

}  // namespace quire::reference
