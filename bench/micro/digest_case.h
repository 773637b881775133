// Scoring digests (quant/digest.h) as a timed case. Thread safety: pure functions.
#pragma once

#include "bench/micro/attend_cases.h"

namespace quire::micro {

// The query heads of one token, `group` for each kv head, against the digests of all pages in their order.
// Threads share the pages. `error`: of the estimates, against the scalar table.
TimedCase digest_case(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t threads);

}  // namespace quire::micro
