// What sealing on the CPU (seal.cc) and on a device (seal_device.cc) share. Included by these alone. Thread
// safety: functions touch only their arguments.
#pragma once

#include <span>

#include "kvcache/seal.h"

namespace quire {

// Writes one section into a page in host memory, and its entry.
void encode_section(const CacheContext& context, const SealJob& job, uint32_t head, uint8_t* page,
                    SectionEntry* entry);
// Of what attention will read: the keys as they decode, and the sinks. rows: [page_tokens][head_dim], work
// space.
void digest_section(const CacheContext& context, uint32_t layer_index, uint32_t page_index, uint32_t head,
                    const uint8_t* page, const SectionEntry& entry, float* rows, uint8_t* digest);
void write_header(const CacheContext& context, const SealJob& job, std::span<const SectionEntry> entries,
                  uint8_t* page);

// Encodes the jobs into slots of the residency's PageDevice, headers too. entries: [jobs][kv_heads]; digests:
// as many, or empty.
Status seal_on_device(const CacheContext& context, std::span<const SealJob> jobs,
                      std::span<uint8_t* const> slots, std::span<SectionEntry> entries,
                      std::span<uint8_t> digests);

}  // namespace quire
