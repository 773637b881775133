// A hash that tells a model apart from every other: of all its weights and of the numbers it computes with.
// Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>

#include "bench/qwen3/model.h"
#include "bench/qwen3/rope.h"
#include "bench/qwen3/selection.h"

namespace quire::qwen3 {

using Fingerprint = std::array<uint64_t, 2>;

// Never zero. Reads every weight once. Selections are part of it because keys of a layer follow from what the
// layers below attended.
Fingerprint model_fingerprint(const Model& model, const SelectionOptions& prefill,
                              const SelectionOptions& select);

// Of the rotation that a text was read with; dynamic scaling makes it depend on the text's length. Never
// zero.
uint64_t rope_fingerprint(const Rope& rope);

}  // namespace quire::qwen3
