// Products by OpenBLAS, loaded at the first of them: programs that compute on a device start without it.
//
// It is told which of its kernels fit the processor, unless OPENBLAS_CORETYPE already does: of a processor
// that is newer than itself it assumes SSE3, a quarter of the speed of what it has for AVX-512. Thread
// safety: any thread.
#pragma once

#include <cstdint>

namespace quire::qwen3 {

struct BlasProduct {
  const float* x;  // [m][k]
  const float* w;  // [n][k]
  float* y;        // [m] rows of n, y_stride apart: x w^T
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t y_stride;
};

// Loads OpenBLAS now, so that a machine without it is told before work begins. Throws Error.
void load_blas();

// On the calling thread alone. Throws Error when OpenBLAS does not load.
void multiply(const BlasProduct& product);

}  // namespace quire::qwen3
