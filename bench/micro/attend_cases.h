// Attention over folded pages as timed cases. Thread safety: pure functions.
#pragma once

#include <memory>

#include "bench/micro/folded_heads.h"
#include "bench/micro/timed_case.h"

namespace quire::micro {

using SharedHeads = std::shared_ptr<const FoldedHeads>;

// A row with what the pages and the instruction set say about it.
Row row_of(const char* name, const FoldedHeads& heads, Isa isa, uint32_t threads);

// What a row gives as the error of attention: of eight rows over 64 pages.
double error_of(const FoldedHeads& heads, const Kernels& kernels);

// Decode: the query heads of one token, `group` for each kv head, over all pages. Threads share the pages.
TimedCase attend_case(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t threads);

// Query tokens of one tile of prefill, as the store cuts tiles.
uint32_t tile_tokens(const FoldedHeads& heads, uint32_t group, uint32_t n_q);

// Prefill: n_q query tokens that all see all pages. Threads take tiles of rows as the store cuts them; a
// round works through a few tiles only, which all cost the same.
TimedCase prefill_case(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t n_q,
                       uint32_t threads);

}  // namespace quire::micro
