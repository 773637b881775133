// Which pairs of codecs a frontier is made of.
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/qwen3/cache.h"

namespace quire::bench {

// The lossy codecs of this library, from many bits to few within a family.
std::vector<quire_codec> lossy_codecs();

// "rot" of rot4; "4".
std::string_view codec_family(std::string_view name);
int codec_bits(std::string_view name);

// Every codec for both sides and, within its family, with the next smaller one for the values; keys of the
// rotated families also with values of the others among them.
std::vector<std::string> frontier_pairs();

}  // namespace quire::bench
