// What pages of a codec cost, without reading anything: a cache of one layer is filled with made-up values.
// Thread safety: main's thread.
#pragma once

#include <cstdint>

#include "bench/cache_setup.h"

namespace quire::bench {

// Page bits of one layer that holds `tokens` tokens, the first page's unfolded sinks included: more tokens,
// fewer bits. Throws Error.
double page_bits(const CacheSetup& setup, const CodecPair& codec, uint64_t tokens);

}  // namespace quire::bench
