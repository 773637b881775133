// RoPE on read, for pre_rope keys. The angle of token t of a section at base b splits into b, which is
// undone on the query, and the offset t, which is applied to the key. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/kernels.h"

namespace quire::reference {

// Decoded keys [shape.tokens][dim], taken out of the rotated space where they are in it, turned by their
// offsets.
void rotate_keys(const KeyRotation& rotation, SectionShape shape, float* keys);

// out[dim] = q[dim] turned back by the base angles of section `section` of the call.
void unrotate_query(const KeyRotation& rotation, size_t section, uint32_t dim, const float* q, float* out);

}  // namespace quire::reference
