// What figures are held against: attention in f64 over the values that the scalar table decodes.
// Thread safety: pure functions.
#pragma once

#include <span>
#include <vector>

#include "bench/micro/folded_heads.h"

namespace quire::micro {

struct DecodedHead {
  uint32_t dim;
  std::vector<double> keys;    // [tokens][dim], in the query's space
  std::vector<double> values;  // [tokens][dim]
};

// The first `pages` pages of a head.
DecodedHead decode_head(const FoldedHeads& heads, size_t head, size_t pages);

// Softmax attention of one row; q holds the softmax scale times log2(e).
std::vector<double> attend_f64(const DecodedHead& head, std::span<const float> q);

// |actual - truth| / |truth|, L2.
double relative_error(std::span<const float> actual, std::span<const double> truth);

}  // namespace quire::micro
