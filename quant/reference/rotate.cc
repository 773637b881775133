#include "quant/reference/rotate.h"

#include <algorithm>

#include "quant/hadamard.h"

namespace quire::reference {
namespace {

void butterflies(float* x, uint32_t block) {
  for (uint32_t h = 1; h < block; h *= 2) {
    for (uint32_t i = 0; i < block; ++i) {
      if ((i & h) != 0) continue;
      const float a = x[i];
      const float b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
}

}  // namespace

void rotate(const float* x, size_t rows, uint32_t dim, const float* diag, float* out) {
  const uint32_t block = hadamard_block(dim);
  const float norm = hadamard_norm(block);
  for (size_t row = 0; row < rows; ++row, x += dim, out += dim) {
    for (uint32_t channel = 0; channel < dim; ++channel) {
      out[channel] = std::clamp(x[channel], -kRotationClamp, kRotationClamp);
      if (diag != nullptr) out[channel] *= diag[channel];
    }
    for (uint32_t start = 0; start < dim; start += block) butterflies(out + start, block);
    for (uint32_t channel = 0; channel < dim; ++channel) out[channel] *= norm;
  }
}

}  // namespace quire::reference
