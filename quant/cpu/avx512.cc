// The kernels for AVX-512 with VNNI and VBMI: Ice Lake, Zen 4 and later.
#define QUIRE_SIMD_AVX512
#include "quant/cpu/kernels-inl.h"
#include "quant/cpu/tables.h"

namespace quire {

const Kernels* find_avx512_kernels() {
  static constexpr Kernels kKernels = HWY_NAMESPACE::kernels_of(Isa::kAvx512);
  // The compiler may use what the target attributes name, and no more.
  static const bool supported =
      find_avx2_kernels() != nullptr && __builtin_cpu_supports("avx512f") != 0 &&
      __builtin_cpu_supports("avx512cd") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
      __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  return supported ? &kKernels : nullptr;
}

}  // namespace quire
