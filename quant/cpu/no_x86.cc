// Stands in for avx2.cc, avxvnni.cc, avx512.cc and amx.cc on other architectures.
#include "quant/cpu/tables.h"

namespace quire {

const Kernels* find_avx2_kernels() { return nullptr; }
const Kernels* find_avxvnni_kernels() { return nullptr; }
const Kernels* find_avx512_kernels() { return nullptr; }
const Kernels* find_amx_kernels() { return nullptr; }

}  // namespace quire
