// The kernels for AArch64 with the dot product: Cortex-A75, Neoverse N1, Apple M1 and later.
#define QUIRE_SIMD_NEON
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "quant/cpu/kernels-inl.h"
#include "quant/cpu/tables.h"

namespace quire {

const Kernels* find_neon_kernels() {
  static constexpr Kernels kKernels = HWY_NAMESPACE::kernels_of(Isa::kNeon);
  // The compiler may use what the target attributes name, and no more.
  constexpr unsigned long kNamed = HWCAP_ASIMD | HWCAP_ASIMDDP | HWCAP_ASIMDRDM | HWCAP_ATOMICS | HWCAP_CRC32;
  static const bool supported = (getauxval(AT_HWCAP) & kNamed) == kNamed;
  return supported ? &kKernels : nullptr;
}

}  // namespace quire
