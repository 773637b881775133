// The kernels for AVX2 with FMA and F16C: Haswell, Zen and later.
#define QUIRE_SIMD_AVX2
#include <cpuid.h>

#include "quant/cpu/kernels-inl.h"
#include "quant/cpu/tables.h"

namespace quire {
namespace {

// __builtin_cpu_supports of clang 14 does not know the name.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

}  // namespace

const Kernels* find_avx2_kernels() {
  static constexpr Kernels kKernels = HWY_NAMESPACE::kernels_of(Isa::kAvx2);
  // The compiler may use what Highway's target attributes name.
  static const bool supported = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
                                has_f16c() && __builtin_cpu_supports("bmi") != 0 &&
                                __builtin_cpu_supports("bmi2") != 0 && __builtin_cpu_supports("aes") != 0 &&
                                __builtin_cpu_supports("pclmul") != 0;
  return supported ? &kKernels : nullptr;
}

}  // namespace quire
