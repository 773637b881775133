// What sealing on the CPU (seal.cc) and on a device (seal_device.cc) share. Included by these alone. Thread
// safety: functions touch only their arguments.
#pragma once

#include <span>

#include "kvcache/seal.h"

namespace quire {

// Writes one section into a page in host memory, and its entry.
void encode_section(const CacheContext& context, const SealJob& job, uint32_t head, uint8_t* page,
                    SectionEntry* entry);
void write_header(const CacheContext& context, const SealJob& job, std::span<const SectionEntry> entries,
                  uint8_t* page);

// Encodes the jobs into slots of the residency's PageDevice, headers too. entries: [jobs][kv_heads].
Status seal_on_device(const CacheContext& context, std::span<const SealJob> jobs,
                      std::span<uint8_t* const> slots, std::span<SectionEntry> entries);

}  // namespace quire
