// The process's own memory, as Linux counts it. Thread safety: any thread.
#pragma once

#include <cstdint>

namespace quire::bench {

// Largest resident set in bytes since reset_peak_rss (or the start of the process).
uint64_t peak_rss();
// Gives free memory back and starts the peak anew where the kernel allows it.
void reset_peak_rss();

}  // namespace quire::bench
