// Folded pages on the device as a cache would hold them: whole pages in one pool, in an order of their own.
// Thread safety: none.
#pragma once

#include <span>

#include "bench/gpu/bench.h"
#include "quant/cuda/launch.h"

namespace quire::gpu {

PageKind page_kind(const Bench& bench, const CodecPair& codecs);

// `sets` contexts of `tokens` tokens; every page holds other random numbers.
class FoldedPages {
 public:
  FoldedPages(const Bench& bench, const CodecPair& codecs, uint32_t tokens, uint32_t sets);

  // [kv_heads][pages], pages of set `set` in shuffled order.
  const SectionRef* refs(uint32_t set) const { return refs_.data() + size_t{set} * heads_ * pages_; }
  uint32_t pages() const { return pages_; }
  size_t section_bytes() const { return size_t{heads_} * pages_ * layout_.section.bytes; }  // of one set
  const cuda::SectionFormat& format() const { return format_; }
  // All sets, and where a page lies among them.
  std::span<uint8_t> bytes() const { return {pool_.data(), pool_.bytes()}; }
  size_t offset(uint32_t set, uint32_t page) const {
    return size_t{places_[size_t{set} * pages_ + page]} * layout_.bytes;
  }

 private:
  std::vector<SectionRef> fold(const Bench& bench) const;

  uint32_t heads_;
  uint32_t pages_;
  PageLayout layout_;
  cuda::SectionFormat format_;
  std::vector<uint32_t> places_;  // [sets][pages]
  DeviceMemory<uint8_t> pool_;
  DeviceMemory<SectionRef> refs_;
};

}  // namespace quire::gpu
