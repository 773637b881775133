#include "quant/cuda/launch.h"

namespace quire::cuda {

DeviceCodec device_codec(CodecId id) {
  const CodecInfo& info = *find_codec(id);
  return {id, info.family, info.bits};
}

bool has_kernels(CodecId id) { return find_codec(id) != nullptr; }

bool has_kernels(const SectionFormat& format) {
  return has_kernels(format.key.id) && has_kernels(format.value.id);
}

SectionFormat section_format(const PageKind& kind) {
  return {device_codec(kind.key_codec), device_codec(kind.value_codec), kind.shape, page_layout(kind).section,
          kind.sink_tokens};
}

const char* device_refusal(const PageKind& kind) {
  if (!has_kernels(kind.key_codec) || !has_kernels(kind.value_codec)) {
    return "a codec of these pages has no CUDA kernels: choose another codec, or the CPU";
  }
  if (!valid_shape(kind.shape)) {
    return "the CUDA kernels take pages of 32, 64 or 128 tokens and a head_dim of 32 to 256 in steps of 32";
  }
  return nullptr;
}

}  // namespace quire::cuda
