// Turns the C API's options into the engine's, with a reason when they make no sense.
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "bindings/c/quire.h"
#include "bindings/engine.h"

namespace quire {

Result<EngineOptions> engine_options(const quire_options& options);
Result<Rope> rope_of(const quire_rope& rope);
Result<Selection> selection_of(const quire_attend_args& args, const CacheConfig& config);
// The prefix's blocks, with its notes.
Result<PrefixChain> chain_of(const quire_prefix& prefix, const Engine& engine);
// name: what the tensor is called in a message. device: the cache computes on one, where tensors may lie.
Result<TensorView> tensor_view(const quire_tensor& tensor, const char* name, uint32_t heads,
                               uint32_t head_dim, bool device);
Result<MutableTensorView> mutable_tensor_view(const quire_tensor& tensor, const char* name, uint32_t heads,
                                              uint32_t head_dim, bool device);
Status check_struct_size(uint32_t got, size_t expected, const char* name);

// An input struct: its size, and that its reserved fields and padding are zero, so that they can mean
// something later.
template <typename Struct>
Status check_struct(const Struct& s, const char* name) {
  if (Status status = check_struct_size(s.struct_size, sizeof s, name); !status.ok()) return status;
  for (const uint64_t field : s.reserved) {
    if (field != 0)
      return invalid(std::string(name) + ".reserved is not zero; call its init function or clear it");
  }
  if constexpr (requires { s.zero; }) {
    if (s.zero != 0)
      return invalid(std::string(name) + ".zero is not zero; call its init function or clear it");
  }
  return {};
}

}  // namespace quire
