// Tensors of an engine that lie on the device: the tail and the pages in host memory are the CPU's, so what
// it must see comes down once per call into pinned memory of the device, and outputs go up from there once.
//
// Functions return when the copies are done, and do nothing for tensors in host memory. Which work of the
// engine's they come after is the caller's affair (quire_step_options.stream). Thread safety: the compute
// stream's alone, outside of waves.
#pragma once

#include "kvcache/context.h"
#include "kvcache/tensor.h"

namespace quire {

// A host's view of `tensor` [tokens][heads][head_dim], good until the next attend; room: 0 or 1, where two
// are wanted at a time.
Result<TensorView> bring_down(const CacheContext& context, const TensorView& tensor, uint32_t tokens,
                              uint32_t heads, uint32_t room);

// What is written in place of `tensor`, and its way up once that has been done.
MutableTensorView stand_in(const CacheContext& context, const MutableTensorView& tensor, uint32_t heads);
Status bring_up(const CacheContext& context, const MutableTensorView& host, const MutableTensorView& tensor,
                uint32_t tokens, uint32_t heads);

}  // namespace quire
