#include "kvcache/tensor.h"

#include <cstring>

#include "quant/half.h"

namespace quire {

TensorView from_token(TensorView view, uint64_t token) {
  view.data = static_cast<const uint8_t*>(view.data) + token * view.token_stride * dtype_bytes(view.dtype);
  return view;
}

void load_row(const TensorView& view, uint64_t token, uint64_t head, uint32_t dim, const Kernels& kernels,
              float* out) {
  const uint64_t at = token * view.token_stride + head * view.head_stride;
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out, static_cast<const float*>(view.data) + at, size_t{dim} * sizeof(float));
      return;
    case DType::kBf16:
      kernels.bf16_to_f32(static_cast<const uint16_t*>(view.data) + at, dim, out);
      return;
    case DType::kF16:
      kernels.f16_to_f32(static_cast<const uint16_t*>(view.data) + at, dim, out);
      return;
  }
}

const float* read_row(const TensorView& view, uint64_t token, uint64_t head, uint32_t dim,
                      const Kernels& kernels, float* buffer) {
  if (view.dtype == DType::kF32) {
    return static_cast<const float*>(view.data) + token * view.token_stride + head * view.head_stride;
  }
  load_row(view, token, head, dim, kernels, buffer);
  return buffer;
}

void store_row(const MutableTensorView& view, uint64_t token, uint64_t head, uint32_t dim,
               const Kernels& kernels, const float* in) {
  const uint64_t at = token * view.token_stride + head * view.head_stride;
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(static_cast<float*>(view.data) + at, in, size_t{dim} * sizeof(float));
      return;
    case DType::kBf16:
      kernels.f32_to_bf16(in, dim, static_cast<uint16_t*>(view.data) + at);
      return;
    case DType::kF16:
      auto* out = static_cast<uint16_t*>(view.data) + at;
      for (uint32_t i = 0; i < dim; ++i) out[i] = f32_to_f16(in[i]);
      return;
  }
}

}  // namespace quire
