// The 4 KiB block at the start of an extent that says whose pages lie behind it. EXTENTS.md is normative.
//
// Pages are found through the page table while the process lives; the header is for recovery, which reads one
// block per extent. Thread safety: pure functions and values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/status.h"
#include "offload/tier.h"

namespace quire {

inline constexpr uint32_t kMinExtentBytes = 128U << 10;
inline constexpr uint32_t kMaxExtentBytes = 4U << 20;
inline constexpr uint32_t kExtentHeaderBytes = 4096;
inline constexpr uint32_t kExtentVersion = 1;            // every page as it is
inline constexpr uint32_t kCompressedExtentVersion = 2;  // pages may be compressed
inline constexpr uint32_t kMaxExtentEntries = 252;

// One page, 16 bytes on disk.
struct ExtentEntry {
  uint32_t page_index = 0;  // below 2^31
  uint32_t offset = 0;      // bytes from the start of the extent, a multiple of kPlaceAlign
  uint32_t length = 0;      // stored bytes, a multiple of kPlaceAlign
  uint64_t checksum = 0;
  bool compressed = false;
  bool operator==(const ExtentEntry&) const = default;
};

struct ExtentHeader {
  uint64_t offset = 0;  // of the extent in its file: a header that lies elsewhere is not valid
  uint32_t bytes = 0;   // of the extent, header included
  uint32_t generation = 0;
  StreamId stream;
  std::vector<ExtentEntry> entries;  // at most kMaxExtentEntries
  bool operator==(const ExtentHeader&) const = default;
};

// Fills the block. The header must keep the rules above.
void write_extent_header(const ExtentHeader& header, std::span<uint8_t, kExtentHeaderBytes> block);

// kIo, naming the first thing that is wrong, when `block`, read at `offset`, is no header of a known version,
// damaged, of another place, or contradicts itself.
Result<ExtentHeader> parse_extent_header(std::span<const uint8_t, kExtentHeaderBytes> block, uint64_t offset);

}  // namespace quire
