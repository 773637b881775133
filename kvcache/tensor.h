// Tensors of the engine: [tokens][heads][dim] of one of three types, the last dimension dense.
//
// Views own nothing. Data must be aligned to its element type. Functions that follow them take tensors in
// host memory; device_tensors.h brings the others there. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/kernels.h"

namespace quire {

// Values as in the C API.
enum class DType : uint8_t { kF32 = 0, kBf16 = 1, kF16 = 2 };

constexpr size_t dtype_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// Strides count elements.
struct TensorView {
  const void* data;
  DType dtype;
  uint64_t token_stride;
  uint64_t head_stride;
  bool on_device = false;
};

struct KeysAndValues {
  TensorView keys;
  TensorView values;
};

struct MutableTensorView {
  void* data;
  DType dtype;
  uint64_t token_stride;
  uint64_t head_stride;
  bool on_device = false;
};

// The same tensor without its first tokens.
TensorView from_token(TensorView view, uint64_t token);

// out[0..dim) = the row as f32: exact.
void load_row(const TensorView& view, uint64_t token, uint64_t head, uint32_t dim, const Kernels& kernels,
              float* out);

// The row as f32: where it lies, or converted into `buffer`.
const float* read_row(const TensorView& view, uint64_t token, uint64_t head, uint32_t dim,
                      const Kernels& kernels, float* buffer);

// The row = in[0..dim), rounded to nearest even as quant/half.h does: infinity and NaN stay; what is finite
// but too large becomes infinite in f16 and the largest value in bf16.
void store_row(const MutableTensorView& view, uint64_t token, uint64_t head, uint32_t dim,
               const Kernels& kernels, const float* in);

}  // namespace quire
