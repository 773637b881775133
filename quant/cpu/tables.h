// The SIMD kernel tables, one per instruction set. Thread safety: pure functions.
#pragma once

#include "quant/kernels.h"

namespace quire {

// nullptr when this build or this CPU lacks the instruction set.
const Kernels* find_avx2_kernels();     // AVX2, FMA, F16C
const Kernels* find_avxvnni_kernels();  // these and AVX-VNNI
const Kernels* find_avx512_kernels();   // AVX-512 F, BW, DQ, VL, VBMI, VNNI
const Kernels* find_amx_kernels();      // these and AMX with 8-bit integers, where the system lends it
const Kernels* find_neon_kernels();     // AArch64 with the dot product

}  // namespace quire
