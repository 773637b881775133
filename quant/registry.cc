// Which kernel tables this build and this machine have.
#include "quant/cpu/tables.h"
#include "quant/kernels.h"
#include "quant/reference/kernels.h"

namespace quire {

const Kernels* find_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &kScalarKernels;
    case Isa::kAvx2:
      return find_avx2_kernels();
    case Isa::kAvx512:
      return find_avx512_kernels();
    case Isa::kNeon:
      return find_neon_kernels();
    case Isa::kAvxVnni:
      return find_avxvnni_kernels();
    case Isa::kAmx:
      return find_amx_kernels();
  }
  return nullptr;
}

const Kernels& best_kernels() {
  for (const Isa isa : {Isa::kAmx, Isa::kAvx512, Isa::kAvxVnni, Isa::kAvx2, Isa::kNeon}) {
    if (const Kernels* kernels = find_kernels(isa)) return *kernels;
  }
  return kScalarKernels;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

}  // namespace quire
