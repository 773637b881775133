#include "quant/cuda/launch.h"

namespace quire::cuda {

DeviceCodec device_codec(CodecId id) {
  const CodecInfo& info = *find_codec(id);
  return {id, info.family, info.bits};
}

bool has_kernels(CodecId id) {
  switch (id) {
    case CodecId::kF32:
    case CodecId::kBf16:
    case CodecId::kInt8:
    case CodecId::kInt4:
    case CodecId::kInt3:
    case CodecId::kInt2:
    case CodecId::kRot4:
    case CodecId::kRot3:
    case CodecId::kRot2:
      return true;
    default:
      return false;
  }
}

bool has_kernels(const SectionFormat& format) {
  return has_kernels(format.key.id) && has_kernels(format.value.id);
}

SectionFormat section_format(const PageKind& kind) {
  return {device_codec(kind.key_codec), device_codec(kind.value_codec), kind.shape, page_layout(kind).section,
          kind.sink_tokens};
}

}  // namespace quire::cuda
