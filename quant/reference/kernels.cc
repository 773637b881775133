#include "quant/reference/kernels.h"

#include <algorithm>
#include <cmath>

#include "quant/half.h"
#include "quant/reference/attend.h"
#include "quant/reference/codecs.h"
#include "quant/reference/merge.h"
#include "quant/reference/rotate.h"

namespace quire {
namespace {

void encode_key(SideCodec codec, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                uint8_t* meta, uint32_t* param) {
  reference::encode_side(codec, Side::kKey, shape, x, first, codes, meta, param);
}

void encode_value(SideCodec codec, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                  uint8_t* meta, uint32_t* param) {
  reference::encode_side(codec, Side::kValue, shape, x, first, codes, meta, param);
}

void decode_key(SideCodec codec, SectionShape shape, const SideView& side, float* out) {
  reference::decode_side(codec, Side::kKey, shape, side, out);
}

void decode_value(SideCodec codec, SectionShape shape, const SideView& side, float* out) {
  reference::decode_side(codec, Side::kValue, shape, side, out);
}

bool finite(const float* x, size_t n) {
  return std::all_of(x, x + n, [](float value) { return std::isfinite(value); });
}

void convert_bf16_to_f32(const uint16_t* in, size_t n, float* out) {
  std::transform(in, in + n, out, [](uint16_t bits) { return bf16_to_f32(bits); });
}

void convert_f16_to_f32(const uint16_t* in, size_t n, float* out) {
  std::transform(in, in + n, out, [](uint16_t bits) { return f16_to_f32(bits); });
}

void convert_f32_to_bf16(const float* in, size_t n, uint16_t* out) {
  std::transform(in, in + n, out, [](float value) { return f32_to_bf16(value); });
}

}  // namespace

const Kernels kScalarKernels{.isa = Isa::kScalar,
                             .encode_key = encode_key,
                             .encode_value = encode_value,
                             .decode_key = decode_key,
                             .decode_value = decode_value,
                             .finite = finite,
                             .bf16_to_f32 = convert_bf16_to_f32,
                             .f16_to_f32 = convert_f16_to_f32,
                             .f32_to_bf16 = convert_f32_to_bf16,
                             .rotate = reference::rotate,
                             .attend_scratch_bytes = reference::attend_scratch_bytes,
                             .attend_folded = reference::attend_folded,
                             .attend_unfolded = reference::attend_unfolded,
                             .merge = reference::merge,
                             .finish = reference::finish,
                             .make_digest = make_digest,
                             .score_digests = score_digests};

}  // namespace quire
