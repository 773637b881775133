// Sealing: full frames become pages.
//
// Thread safety: called on the compute stream; encoding itself runs on the executor.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kvcache/sequence.h"
#include "kvcache/tensor.h"

namespace quire {

struct SealJob {
  Sequence* sequence;
  uint32_t layer;
  uint32_t page;
  const float* frame;
  // The page's tokens as the engine gave them, where they lie on the device.
  std::optional<KeysAndValues> given;
};

// True when `page` of the layer has no bytes that its sequence may read: it is lost or of another rope epoch.
bool needs_refill(const CacheContext& context, const Sequence& sequence, uint32_t layer, uint32_t page);

// Digests of a sealed page, [kv_heads][digest_bytes]: of what attention will read, the keys as they decode,
// and the sinks. lane: whose part of the work space is used, below the executor's threads.
void digest_page(const CacheContext& context, uint32_t layer, uint32_t page, const uint8_t* bytes,
                 std::span<const SectionEntry> entries, uint32_t lane, uint8_t* digests);

// Encodes the frames and publishes the pages: appended to their tables, or, where the table has the page
// already, put in its place. All or none.
Status seal_pages(const CacheContext& context, std::span<const SealJob> jobs);

}  // namespace quire
