// The rotation of FORMATS.md. Thread safety: pure functions on their arguments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::reference {

// out = H (diag x), row by row of x[rows][dim]; out may be x. diag: [dim] or nullptr.
void rotate(const float* x, size_t rows, uint32_t dim, const float* diag, float* out);

}  // namespace quire::reference
