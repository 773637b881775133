// The kernels for AVX2 with AVX-VNNI: Alder Lake and later cores without AVX-512. Attention over folded
// integer codes is theirs, all else AVX2's.
#define QUIRE_SIMD_AVX2
#define QUIRE_SIMD_AVX_VNNI
#include <cpuid.h>

#include "quant/cpu/folded_only-inl.h"
#include "quant/cpu/tables.h"

namespace quire {
namespace {

bool has_avx_vnni() {
  constexpr unsigned kAvxVnni = 1U << 4;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvxVnni) != 0;
}

}  // namespace

const Kernels* find_avxvnni_kernels() {
  static const bool supported = find_avx2_kernels() != nullptr && has_avx_vnni();
  if (!supported) return nullptr;
  using namespace HWY_NAMESPACE;
  static const Kernels kKernels = kernels_beside<&attend_folded, &find_avx2_kernels>(Isa::kAvxVnni);
  return &kKernels;
}

}  // namespace quire
