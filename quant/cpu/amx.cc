// The kernels for AVX-512 with AMX: Sapphire Rapids and later. Attention over folded integer codes is theirs,
// all else AVX-512's, and so is every bit of their results: sums of integers are exact.
#define QUIRE_SIMD_AVX512
#define QUIRE_SIMD_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quant/cpu/folded_only-inl.h"
#include "quant/cpu/tables.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline void attend_with_matrices(const FoldedPages& pages, std::span<const SectionRef> sections,
                                 const QueryTile& query, const AttendState& state, uint8_t* scratch) {
  if (query.rows < kLeastMatrixRows) {
    return find_avx512_kernels()->attend_folded(pages, sections, query, state, scratch);
  }
  const MatrixRegisters registers;
  attend_folded(pages, sections, query, state, scratch);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

namespace quire {
namespace {

bool has_amx() {
  constexpr unsigned kAmxTile = 1U << 24;
  constexpr unsigned kAmxInt8 = 1U << 25;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxTile) != 0 &&
         (edx & kAmxInt8) != 0;
}

// Linux lends the 8 KiB of registers to a process that asks for them, because a signal's frame grows by as
// much; it refuses where an alternate signal stack would be too small. A thread's first use of them traps
// once, for room to keep them in.
bool borrow_registers() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const Kernels* find_amx_kernels() {
  static const bool supported = find_avx512_kernels() != nullptr && has_amx() && borrow_registers();
  if (!supported) return nullptr;
  using namespace HWY_NAMESPACE;
  static const Kernels kKernels = kernels_beside<&attend_with_matrices, &find_avx512_kernels>(Isa::kAmx);
  return &kKernels;
}

}  // namespace quire
