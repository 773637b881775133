// Making and reading whole pages as timed cases: their bytes are those read and those written, and the floor
// is a plain read of as many. Thread safety: pure functions.
#pragma once

#include "bench/micro/attend_cases.h"

namespace quire::micro {

// Keys and values of every section of every page to bytes, with the section's checksum and digest. `error`:
// of the decoded values against those that went in.
TimedCase encode_case(const SharedHeads& model, const Kernels& kernels, uint32_t threads);
// Every section to f32. `error`: against what the scalar table decodes.
TimedCase decode_page_case(const SharedHeads& heads, const Kernels& kernels, uint32_t threads);
// The checksum of every section.
TimedCase checksum_case(const SharedHeads& heads, uint32_t threads);

}  // namespace quire::micro
