// Attention states of rows, in log2 units: merging two of them and finishing one. Thread safety: pure
// functions on their arguments.
#pragma once

#include <cstdint>

#include "quant/kernels.h"

namespace quire::reference {

void merge(const AttendState& into, const AttendState& from, uint32_t rows, uint32_t dim);
void finish(const AttendState& state, uint32_t rows, uint32_t dim, float* lse);

}  // namespace quire::reference
