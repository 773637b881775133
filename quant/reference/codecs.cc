// What the scalar codecs share: the choice of the family and the section exponent.
#include "quant/reference/codecs.h"

#include <algorithm>
#include <cmath>

#include "quant/section_exponent.h"

namespace quire::reference {

int section_exponent_of(SectionShape shape, const float* x, uint32_t first) {
  float largest = 0.0F;
  for (size_t i = size_t{first} * shape.dim; i < size_t{shape.tokens} * shape.dim; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
  }
  return section_exponent(largest);
}

void encode_side(SideCodec side_codec, Side side, SectionShape shape, const float* x, uint32_t first,
                 uint8_t* codes, uint8_t* meta, uint32_t* param) {
  const CodecInfo& codec = *find_codec(side_codec.id);
  std::fill_n(codes, code_bytes(codec, shape), uint8_t{0});
  std::fill_n(meta, meta_bytes(codec, side, shape), uint8_t{0});
  switch (codec.family) {
    case CodecFamily::kFloat:
      encode_float(codec, side, shape, x, first, codes);
      *param = 0;
      break;
    case CodecFamily::kUniform:
      *param = encode_uniform(codec, side, shape, x, first, codes, meta);
      break;
    case CodecFamily::kRotated:
      *param = encode_rotated(codec, side, shape, x, first, codes, meta);
      break;
    case CodecFamily::kTrellis:
      *param = encode_trellis(codec, side, shape, x, first, codes, meta);
      break;
    case CodecFamily::kNonUniform:
      *param = encode_nonuniform(codec, side, shape, side_codec.levels, x, first, codes, meta);
      break;
  }
}

void decode_side(SideCodec side_codec, Side side, SectionShape shape, const SideView& view, float* out) {
  const CodecInfo& codec = *find_codec(side_codec.id);
  switch (codec.family) {
    case CodecFamily::kFloat:
      decode_float(codec, side, shape, view.codes, out);
      break;
    case CodecFamily::kUniform:
      decode_uniform(codec, side, shape, view, out);
      break;
    case CodecFamily::kRotated:
      decode_rotated(codec, side, shape, view, out);
      break;
    case CodecFamily::kTrellis:
      decode_trellis(codec, side, shape, view, out);
      break;
    case CodecFamily::kNonUniform:
      decode_nonuniform(codec, side, shape, side_codec.levels, view, out);
      break;
  }
}

}  // namespace quire::reference
