// Scalar attention over folded sections and unfolded rows: see quant/kernels.h. A section is decoded as a
// whole, then each row visits its tokens on its own. Thread safety: pure functions on their arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/kernels.h"

namespace quire::reference {

size_t attend_scratch_bytes(uint32_t rows, SectionShape shape);
void attend_folded(const FoldedPages& pages, std::span<const SectionRef> sections, const QueryTile& tile,
                   const AttendState& state, uint8_t* scratch);
void attend_unfolded(const UnfoldedRows& unfolded, const QueryTile& tile, uint32_t dim,
                     const AttendState& state, uint8_t* scratch);

}  // namespace quire::reference
