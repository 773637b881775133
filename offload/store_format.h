// The bytes of a persistent store that are not pages: superblocks and block headers. STORE.md is normative.
// Thread safety: pure functions and values.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/block_store.h"

namespace quire {

inline constexpr uint32_t kStoreVersion = 1;
inline constexpr uint32_t kSuperblockBytes = 4096;
inline constexpr uint32_t kSuperblockCopies = 4;
inline constexpr uint32_t kGroupSlots = 64;
inline constexpr uint32_t kEpochShift = 32;  // a serial is the epoch, then a number in it

using FileId = std::array<uint64_t, 2>;  // random; tells one store's headers from another's

// What blocks of a store look like, and where they lie.
struct StoreShape {
  uint64_t layout = 0;  // layout_hash of the cache
  uint32_t page_tokens = 0;
  uint32_t pages = 0;         // of a block: layers
  uint32_t header_bytes = 0;  // of a block header, a multiple of 4096
  uint64_t slot_bytes = 0;    // of a block's pages, a multiple of 4096
  bool operator==(const StoreShape&) const = default;

  uint64_t group_bytes() const { return kGroupSlots * (header_bytes + slot_bytes); }
  uint64_t group_offset(uint64_t group) const {
    return uint64_t{kSuperblockBytes} * kSuperblockCopies + group * group_bytes();
  }
  uint64_t header_offset(uint64_t slot) const {
    return group_offset(slot / kGroupSlots) + slot % kGroupSlots * header_bytes;
  }
  uint64_t data_offset(uint64_t slot) const {
    return group_offset(slot / kGroupSlots) + kGroupSlots * uint64_t{header_bytes} +
           slot % kGroupSlots * slot_bytes;
  }
  // Slots that fit into so many bytes, and the bytes that so many slots take.
  uint64_t slots_in(uint64_t bytes) const;
  uint64_t bytes_for(uint64_t slots) const;
};

StoreShape store_shape(const CacheConfig& config);

struct Superblock {
  FileId file{};
  uint32_t epoch = 0;  // at least 1; every opening takes the next one
  StoreShape shape;
};

void write_superblock(const Superblock& superblock, uint32_t copy,
                      std::span<uint8_t, kSuperblockBytes> block);
// Whether somebody began to write a superblock here.
bool begins_superblock(std::span<const uint8_t, kSuperblockBytes> block);
// kIo when the bytes are no whole superblock of this version, or of another copy.
Result<Superblock> parse_superblock(std::span<const uint8_t, kSuperblockBytes> block, uint32_t copy);

struct BlockHeader {
  FileId file{};
  uint64_t slot = 0;
  uint64_t serial = 0;
  uint64_t before = 0;  // serial of the block before; 0: this is the first
  uint64_t index = 0;   // in its chain
  BlockId id;
  PrefixScope scope;
  uint64_t data_bytes = 0;  // of the pages
  BlockNote note{};
  std::vector<int32_t> tokens;
  std::vector<uint64_t> checksums;  // XXH3-64 of each page
};

// block: shape.header_bytes.
void write_block_header(const BlockHeader& header, const StoreShape& shape, std::span<uint8_t> block);
// kMiss when the block was never written or is erased; kIo, naming the first thing that is wrong, when it is
// no header of this store, read from this slot, of an epoch up to `epoch`.
Result<BlockHeader> parse_block_header(std::span<const uint8_t> block, const Superblock& superblock,
                                       uint64_t slot);

uint64_t page_checksum(std::span<const uint8_t> page);

}  // namespace quire
