// Made-up tokens, and what attention over them must be.
//
// A token is a number; its keys, values and queries are vectors of a fixed store, picked by hashing the
// number with the layer. All are bf16 exactly, so that a lossless codec loses nothing. Thread safety: pure
// functions over constant data.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/config.h"

namespace quire::testing {

enum class Side : uint64_t { kKey = 1, kValue = 2, kQuery = 3 };

// [tokens.size()][heads][head_dim] f32, each value bf16 exactly.
std::vector<float> token_rows(Side side, uint32_t layer, std::span<const uint32_t> tokens, uint32_t heads,
                              uint32_t head_dim);

// f64 softmax attention of the last of `tokens` over the last `window` of them (0: all), scale
// 1/sqrt(head_dim): [query_heads][head_dim].
std::vector<double> model_attention(const CacheConfig& config, uint32_t layer,
                                    std::span<const uint32_t> tokens, uint64_t window);

// |a - b| / |b|
double relative_error(std::span<const float> a, std::span<const double> b);

}  // namespace quire::testing
