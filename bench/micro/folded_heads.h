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

// What pre_rope keys need to be read: angles of every page and of the tokens inside one.
struct PageAngles {
  uint32_t half;                 // rotary_dim / 2
  std::vector<float> balance;    // [dim], rotated key codecs only
  std::vector<float> token_cos;  // [half][page tokens]
  std::vector<float> token_sin;
  std::vector<float> base_cos;  // [pages][half]
  std::vector<float> base_sin;

  KeyRotation from(size_t page) const;
};

struct FoldedHeads {
  PageKind kind;
  PageLayout layout;
  BigBuffer memory;
  std::vector<const uint8_t*> pages;           // in the order they are visited, which is that of positions
  std::vector<std::vector<SectionRef>> heads;  // [kv head][page], the same order
  PageAngles angles;                           // pre_rope only

  bool pre_rope() const { return kind.key_space == KeySpace::kPreRope; }
  size_t bytes() const { return pages.size() * layout.bytes; }
  // rotation: lives as long as the call; used in pre_rope space.
  FoldedPages folded(const KeyRotation* rotation) const {
    return {kind.key_codec, kind.value_codec, kind.sink_tokens,
            kind.shape,     layout.section,   pre_rope() ? rotation : nullptr};
  }
};

// Radians per position of rotary pair i of `half`.
double inverse_frequency(uint32_t i, uint32_t half);

// Normal numbers with a mean.
std::vector<float> make_normal_rows(size_t count);

// Normal keys and values with a mean; a few distinct pages are encoded and repeated.
FoldedHeads make_folded_heads(const Kernels& kernels, const PageKind& kind, size_t tokens, uint64_t seed);

}  // namespace quire::micro
