// Stands in for neon.cc on other architectures.
#include "quant/cpu/tables.h"

namespace quire {

const Kernels* find_neon_kernels() { return nullptr; }

}  // namespace quire
