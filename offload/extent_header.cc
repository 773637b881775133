#include "offload/extent_header.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "quant/bytes.h"

namespace quire {
namespace {

constexpr std::array<uint8_t, 8> kMagic{'Q', 'U', 'I', 'R', 'E', 'E', 'X', 'T'};

// Byte offsets of the fields.
constexpr size_t kVersionAt = 8;
constexpr size_t kGenerationAt = 12;
constexpr size_t kSequenceAt = 16;
constexpr size_t kLayerAt = 24;
constexpr size_t kBytesAt = 28;
constexpr size_t kOffsetAt = 32;
constexpr size_t kCountAt = 40;
constexpr size_t kReservedAt = 44;
constexpr size_t kChecksumAt = 56;
constexpr size_t kEntriesAt = 64;
constexpr size_t kEntryBytes = 16;
static_assert(kEntriesAt + kMaxExtentEntries * kEntryBytes == kExtentHeaderBytes);
// 16 bits hold every offset and length in units of kPlaceAlign.
static_assert(kMaxExtentBytes / kPlaceAlign - 1 <= UINT16_MAX);

constexpr uint32_t kCompressedBit = uint32_t{1} << 31;  // of an entry's page index, in version 2

uint64_t block_checksum(std::span<const uint8_t, kExtentHeaderBytes> block) {
  std::array<uint8_t, kExtentHeaderBytes> copy{};
  std::copy(block.begin(), block.end(), copy.begin());
  store_le<uint64_t>(copy.data() + kChecksumAt, 0);
  return XXH3_64bits(copy.data(), copy.size());
}

Status broken(uint64_t offset, const char* what) {
  return {StatusCode::kIo, "the extent at byte " + std::to_string(offset) + " cannot be used: " + what};
}

bool valid_size(uint32_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kMinExtentBytes && bytes <= kMaxExtentBytes;
}

// In order, inside the extent, without overlap.
bool valid_entries(const ExtentHeader& header) {
  uint32_t end = kExtentHeaderBytes;
  for (const ExtentEntry& entry : header.entries) {
    if (entry.length == 0 || entry.offset < end || entry.length > header.bytes - entry.offset) return false;
    end = entry.offset + entry.length;
  }
  return true;
}

}  // namespace

void write_extent_header(const ExtentHeader& header, std::span<uint8_t, kExtentHeaderBytes> block) {
  std::fill(block.begin(), block.end(), uint8_t{0});
  std::copy(kMagic.begin(), kMagic.end(), block.begin());
  uint8_t* at = block.data();
  const bool compressed = std::ranges::any_of(header.entries, &ExtentEntry::compressed);
  store_le(at + kVersionAt, compressed ? kCompressedExtentVersion : kExtentVersion);
  store_le(at + kGenerationAt, header.generation);
  store_le(at + kSequenceAt, header.stream.sequence);
  store_le(at + kLayerAt, header.stream.layer);
  store_le(at + kBytesAt, header.bytes);
  store_le(at + kOffsetAt, header.offset);
  store_le(at + kCountAt, static_cast<uint32_t>(header.entries.size()));
  uint8_t* out = at + kEntriesAt;
  for (const ExtentEntry& entry : header.entries) {
    store_le(out, entry.page_index | (entry.compressed ? kCompressedBit : 0));
    store_le(out + 4, static_cast<uint16_t>(entry.offset / kPlaceAlign));
    store_le(out + 6, static_cast<uint16_t>(entry.length / kPlaceAlign));
    store_le(out + 8, entry.checksum);
    out += kEntryBytes;
  }
  store_le(at + kChecksumAt, block_checksum(block));
}

Result<ExtentHeader> parse_extent_header(std::span<const uint8_t, kExtentHeaderBytes> block,
                                         uint64_t offset) {
  const uint8_t* at = block.data();
  if (!std::equal(kMagic.begin(), kMagic.end(), at)) return broken(offset, "it does not start with a header");
  const auto version = load_le<uint32_t>(at + kVersionAt);
  if (version != kExtentVersion && version != kCompressedExtentVersion)
    return broken(offset, "its version is not known");
  if (load_le<uint64_t>(at + kChecksumAt) != block_checksum(block))
    return broken(offset, "its header is damaged");
  ExtentHeader header;
  header.generation = load_le<uint32_t>(at + kGenerationAt);
  header.stream = {load_le<uint64_t>(at + kSequenceAt), load_le<uint32_t>(at + kLayerAt)};
  header.bytes = load_le<uint32_t>(at + kBytesAt);
  header.offset = load_le<uint64_t>(at + kOffsetAt);
  const auto count = load_le<uint32_t>(at + kCountAt);
  if (header.offset != offset) return broken(offset, "its header belongs to another place");
  if (!valid_size(header.bytes) || offset % header.bytes != 0)
    return broken(offset, "its size is not allowed");
  if (count > kMaxExtentEntries) return broken(offset, "it lists more pages than fit");
  if (!std::all_of(at + kReservedAt, at + kChecksumAt, [](uint8_t byte) { return byte == 0; })) {
    return broken(offset, "a reserved field is not zero");
  }
  header.entries.resize(count);
  const uint8_t* in = at + kEntriesAt;
  for (ExtentEntry& entry : header.entries) {
    const auto index = load_le<uint32_t>(in);
    entry = {index & ~kCompressedBit, load_le<uint16_t>(in + 4) * kPlaceAlign,
             load_le<uint16_t>(in + 6) * kPlaceAlign, load_le<uint64_t>(in + 8), index >= kCompressedBit};
    if (entry.compressed && version == kExtentVersion)
      return broken(offset, "it lists a compressed page, which its version does not have");
    in += kEntryBytes;
  }
  if (!valid_entries(header)) return broken(offset, "its pages overlap or leave it");
  return header;
}

}  // namespace quire
