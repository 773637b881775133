// f32 and bf16: values as they are, in the order of the reduction axis.
#include "quant/bytes.h"
#include "quant/dot_quad.h"
#include "quant/half.h"
#include "quant/reference/codecs.h"

namespace quire::reference {

void encode_float(const CodecInfo& codec, Side side, SectionShape shape, const float* x, uint32_t first,
                  uint8_t* codes) {
  for (uint32_t token = first; token < shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      const float value = x[size_t{token} * shape.dim + channel];
      const size_t at = float_index(side, shape, codec.bits, token, channel);
      if (codec.bits == 32) {
        store_le<float>(codes + at * 4, value);
      } else {
        store_le<uint16_t>(codes + at * 2, f32_to_bf16(value));
      }
    }
  }
}

void decode_float(const CodecInfo& codec, Side side, SectionShape shape, const uint8_t* codes, float* out) {
  for (uint32_t token = 0; token < shape.tokens; ++token) {
    for (uint32_t channel = 0; channel < shape.dim; ++channel) {
      const size_t at = float_index(side, shape, codec.bits, token, channel);
      out[size_t{token} * shape.dim + channel] =
          codec.bits == 32 ? load_le<float>(codes + at * 4) : bf16_to_f32(load_le<uint16_t>(codes + at * 2));
    }
  }
}

}  // namespace quire::reference
