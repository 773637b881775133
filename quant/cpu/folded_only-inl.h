// A table that differs from another's in attention over folded integer codes: post_rope pages of the common
// shape without sinks, codecs without outliers. All else is the other table's. Thread safety: pure functions.
#pragma once

#include "quant/cpu/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline bool serves(const FoldedPages& pages) {
  const CodecInfo& key = *find_codec(pages.key_codec.id);
  const CodecInfo& value = *find_codec(pages.value_codec.id);
  return CommonShape::is(pages.shape) && pages.rotation == nullptr && pages.sink_tokens == 0 &&
         key.bits <= 8 && value.bits <= 8 && !key.outliers && !value.outliers;
}

using FindKernels = const Kernels* (*)();
using AttendFolded = decltype(Kernels::attend_folded);

template <AttendFolded kAttend, FindKernels kOthers>
void attend_served(const FoldedPages& pages, std::span<const SectionRef> sections, const QueryTile& query,
                   const AttendState& state, uint8_t* scratch) {
  const AttendFolded attend = serves(pages) ? kAttend : kOthers()->attend_folded;
  attend(pages, sections, query, state, scratch);
}

template <FindKernels kOthers>
size_t scratch_bytes(uint32_t rows, SectionShape shape) {
  return std::max(tile_bytes(rows, shape), kOthers()->attend_scratch_bytes(rows, shape));
}

// The table of kOthers, which must exist, with kAttend for what it serves.
template <AttendFolded kAttend, FindKernels kOthers>
Kernels kernels_beside(Isa isa) {
  Kernels kernels = *kOthers();
  kernels.isa = isa;
  kernels.attend_scratch_bytes = &scratch_bytes<kOthers>;
  kernels.attend_folded = &attend_served<kAttend, kOthers>;
  return kernels;
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
