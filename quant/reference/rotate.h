// The rotation of FORMATS.md, in place. Thread safety: pure functions on their arguments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::reference {

// x[rows][dim] = H (diag x). diag: [dim] or nullptr.
void rotate(float* x, size_t rows, uint32_t dim, const float* diag);

}  // namespace quire::reference
