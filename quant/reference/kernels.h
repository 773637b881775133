// The scalar table: FORMATS.md as plain code, and the oracle of every other table. Thread safety: immutable.
#pragma once

#include "quant/kernels.h"

namespace quire {

extern const Kernels kScalarKernels;

}  // namespace quire
