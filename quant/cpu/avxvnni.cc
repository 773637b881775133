// The kernels for AVX2 with AVX-VNNI: Alder Lake and later cores without AVX-512. Attention over folded
// integer codes is theirs, all else AVX2's.
#define QUIRE_SIMD_AVX2
#define QUIRE_SIMD_AVX_VNNI
#include <cpuid.h>

#include "quant/cpu/attend-inl.h"
#include "quant/cpu/tables.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline bool serves(const FoldedPages& pages) {
  const CodecInfo& key = *find_codec(pages.key_codec.id);
  const CodecInfo& value = *find_codec(pages.value_codec.id);
  return CommonShape::is(pages.shape) && pages.rotation == nullptr && pages.sink_tokens == 0 &&
         key.bits <= 8 && value.bits <= 8 && !key.outliers && !value.outliers;
}

inline void attend_served(const FoldedPages& pages, std::span<const SectionRef> sections,
                          const QueryTile& query, const AttendState& state, uint8_t* scratch) {
  if (serves(pages)) return attend_folded(pages, sections, query, state, scratch);
  find_avx2_kernels()->attend_folded(pages, sections, query, state, scratch);
}

inline size_t scratch_bytes(uint32_t rows, SectionShape shape) {
  const size_t own = tile_bytes(rows, shape);
  const size_t others = find_avx2_kernels()->attend_scratch_bytes(rows, shape);
  return own > others ? own : others;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

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

Kernels make_kernels(const Kernels& plain) {
  Kernels kernels = plain;
  kernels.isa = Isa::kAvxVnni;
  kernels.attend_scratch_bytes = &HWY_NAMESPACE::scratch_bytes;
  kernels.attend_folded = &HWY_NAMESPACE::attend_served;
  return kernels;
}

}  // namespace

const Kernels* find_avxvnni_kernels() {
  static const bool supported = find_avx2_kernels() != nullptr && has_avx_vnni();
  if (!supported) return nullptr;
  static const Kernels kKernels = make_kernels(*find_avx2_kernels());
  return &kKernels;
}

}  // namespace quire
