// A long sequence of one layer for measuring: pages of all kv heads in memory, visited in shuffled order.
// Thread safety: immutable once made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "quant/kernels.h"

namespace quire::micro {

// Memory in huge pages where the system has them.
class BigBuffer {
 public:
  explicit BigBuffer(size_t bytes);
  uint8_t* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };
  std::unique_ptr<uint8_t, Free> data_;
};

struct FoldedHeads {
  PageKind kind;
  PageLayout layout;
  BigBuffer memory;
  std::vector<const uint8_t*> pages;           // in the order they are visited
  std::vector<std::vector<SectionRef>> heads;  // [kv head][page], the same order

  size_t bytes() const { return pages.size() * layout.bytes; }
  FoldedPages folded() const {
    return {kind.key_codec, kind.value_codec, kind.sink_tokens, kind.shape, layout.section, nullptr};
  }
};

// Normal keys and values with a mean; a few distinct pages are encoded and repeated.
FoldedHeads make_folded_heads(const Kernels& kernels, const PageKind& kind, size_t tokens, uint64_t seed);

// Relative L2 error of `kernels` against f64 over decoded values: one row of head 0, its first `pages` pages.
double attend_error(const Kernels& kernels, const FoldedHeads& heads, std::span<const float> q, size_t pages);

}  // namespace quire::micro
