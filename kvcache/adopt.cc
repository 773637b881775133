#include "kvcache/adopt.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kvcache/page_device.h"
#include "kvcache/page_reader.h"
#include "kvcache/seal.h"

namespace quire {
namespace {

// A block all of whose layers did not come is none.
void drop_block(const CacheContext& context, Sequence* sequence, uint32_t block) {
  ResidencyLock lock = context.residency.lock();
  for (SequenceLayer& layer : sequence->layers) {
    context.residency.truncate_table(lock, layer.table, block);
  }
}

Status not_proven(uint32_t layer, uint32_t block) {
  return {StatusCode::kMiss, "the stored page of layer " + std::to_string(layer) + " in block " +
                                 std::to_string(block) + " is not what it should be; compute it again"};
}

// The page's header and sections, against the cache's configuration and their checksums.
bool proven_page(const CacheContext& context, uint32_t layer_index, uint32_t block, uint32_t rope_epoch,
                 std::span<const uint8_t> bytes, std::span<SectionEntry> entries) {
  const LayerConfig& layer = context.config.layer[layer_index];
  const PageLayout& layout = layer.layout_of(block);
  PageHeader header{};
  if (read_page_header(bytes, &header, entries) != HeaderFault::kNone) return false;
  if (header.kind != layer.kind_of(block) || header.token_count != context.config.page_tokens ||
      header.rope_epoch != context.config.page_epoch(rope_epoch) ||
      header.layer_params_hash != layer.params_hash) {
    return false;
  }
  for (size_t head = 0; head < entries.size(); ++head) {
    const auto section =
        bytes.subspan(layout.header_bytes + head * layout.section.bytes, layout.section.bytes);
    const SectionEntry& entry = entries[head];
    if (section_checksum(section, entry.key_param, entry.value_param) != entry.checksum) return false;
  }
  return true;
}

Status copy_to_slot(const Residency& residency, std::span<const uint8_t> bytes, uint8_t* slot) {
  if (PageDevice* device = residency.device(); device != nullptr)
    return device->store(slot, bytes.data(), bytes.size());
  std::memcpy(slot, bytes.data(), bytes.size());
  return {};
}

Status place_page(const CacheContext& context, uint32_t layer, uint32_t block, std::span<const uint8_t> bytes,
                  Sequence* to) {
  std::vector<SectionEntry> entries(context.config.kv_heads);
  if (!proven_page(context, layer, block, to->rope.epoch, bytes, entries)) return not_proven(layer, block);
  Residency& residency = context.residency;
  const auto length = static_cast<uint32_t>(bytes.size());
  PageTable* table = to->layers[layer].table;
  ResidencyLock lock = residency.lock();
  if (Status status = residency.reserve(lock, table, size_t{block} + 1, 1); !status.ok()) return status;
  const Result<uint8_t*> slot = residency.new_slot(lock, length);
  if (!slot.ok()) return slot.status();
  Status status = copy_to_slot(residency, bytes, *slot);
  if (status.ok()) {
    status =
        residency.publish(lock, table, *slot, length, context.config.page_epoch(to->rope.epoch), entries);
  }
  if (!status.ok()) {
    residency.free_slot(lock, residency.seal_tier(), *slot, length);
    return status;
  }
  uint8_t* digests = table->pages[block]->digests;
  lock.unlock();
  if (digests != nullptr) digest_page(context, layer, block, bytes.data(), entries, 0, digests);
  return {};
}

}  // namespace

bool has_block(const CacheContext& context, const Sequence& sequence, uint32_t block, uint32_t rope_epoch) {
  ResidencyLock lock = context.residency.lock();
  return std::all_of(sequence.layers.begin(), sequence.layers.end(), [&](const SequenceLayer& layer) {
    if (layer.table->pages.size() <= block) return false;
    const Page* page = layer.table->pages[block];
    return !page->lost() && page->rope_epoch == context.config.page_epoch(rope_epoch);
  });
}

Status share_block(const CacheContext& context, const Sequence& from, uint32_t block, Sequence* to) {
  Status status;
  {
    ResidencyLock lock = context.residency.lock();
    for (size_t i = 0; i < to->layers.size() && status.ok(); ++i) {
      Page* page = from.layers[i].table->pages[block];
      status = context.residency.share_page(lock, page, to->layers[i].table);
    }
  }
  if (!status.ok()) drop_block(context, to, block);
  return status;
}

Status place_block(const CacheContext& context, std::span<const uint8_t> bytes, uint32_t block,
                   Sequence* to) {
  size_t at = 0;
  for (uint32_t layer = 0; layer < context.config.layers; ++layer) {
    const uint32_t length = context.config.layer[layer].layout_of(block).bytes;
    const Status status = place_page(context, layer, block, bytes.subspan(at, length), to);
    if (!status.ok()) {
      drop_block(context, to, block);
      return status;
    }
    at += length;
  }
  return {};
}

Status copy_block(const CacheContext& context, const Sequence& from, uint32_t block,
                  std::span<uint8_t> bytes) {
  size_t at = 0;
  PageReader reader(context.residency);
  for (uint32_t layer = 0; layer < context.config.layers; ++layer) {
    const Result<const uint8_t*> page = reader.read(from.layers[layer].table, block);
    if (!page.ok()) return page.status();
    if (reader.page()->rope_epoch != context.config.page_epoch(from.rope.epoch))
      return not_proven(layer, block);
    std::memcpy(bytes.data() + at, *page, reader.page()->bytes);
    at += reader.page()->bytes;
  }
  return {};
}

void finish_adoption(const CacheContext& context, Sequence* sequence, uint32_t blocks) {
  const uint64_t tokens = uint64_t{blocks} * context.config.page_tokens;
  for (SequenceLayer& layer : sequence->layers) {
    layer.live.first_page = blocks;
    layer.live.begin = tokens;
    layer.live.end = tokens;
  }
  sequence->length = tokens;
}

}  // namespace quire
