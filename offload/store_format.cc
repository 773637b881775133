#include "offload/store_format.h"

#define XXH_INLINE_ALL  // the streaming state is a complete type only then
#include <xxhash.h>

#include <algorithm>
#include <string>

#include "offload/tier.h"
#include "quant/bytes.h"

namespace quire {
namespace {

constexpr std::array<uint8_t, 8> kSuperMagic{'Q', 'U', 'I', 'R', 'E', 'S', 'T', 'O'};
constexpr std::array<uint8_t, 8> kBlockMagic{'Q', 'U', 'I', 'R', 'E', 'B', 'L', 'K'};

// Byte offsets of the superblock's fields.
constexpr size_t kVersionAt = 8;
constexpr size_t kCopyAt = 12;
constexpr size_t kFileAt = 16;
constexpr size_t kEpochAt = 32;
constexpr size_t kPageTokensAt = 36;
constexpr size_t kPagesAt = 40;
constexpr size_t kHeaderBytesAt = 44;
constexpr size_t kSlotBytesAt = 48;
constexpr size_t kLayoutAt = 56;
constexpr size_t kSuperChecksumAt = 64;

// Of the block header's.
constexpr size_t kTokenCountAt = 12;
constexpr size_t kSlotAt = 32;
constexpr size_t kSerialAt = 40;
constexpr size_t kBeforeAt = 48;
constexpr size_t kIndexAt = 56;
constexpr size_t kIdAt = 64;
constexpr size_t kModelAt = 80;
constexpr size_t kTenantAt = 96;
constexpr size_t kAdapterAt = 112;
constexpr size_t kRopeEpochAt = 120;
constexpr size_t kPageCountAt = 124;
constexpr size_t kScopeLayoutAt = 128;
constexpr size_t kDataBytesAt = 136;
constexpr size_t kBlockChecksumAt = 144;
constexpr size_t kNoteAt = 192;
constexpr size_t kTokensAt = 256;
static_assert(kNoteAt + kNoteBytes == kTokensAt);

// Of all bytes, the field at `at` taken as zero.
uint64_t checksum_without(std::span<const uint8_t> bytes, size_t at) {
  constexpr std::array<uint8_t, 8> kBlank{};
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, bytes.data(), at);
  XXH3_64bits_update(&state, kBlank.data(), kBlank.size());
  XXH3_64bits_update(&state, bytes.data() + at + kBlank.size(), bytes.size() - at - kBlank.size());
  return XXH3_64bits_digest(&state);
}

void store_pair(uint8_t* at, const std::array<uint64_t, 2>& pair) {
  store_le<uint64_t>(at, pair[0]);
  store_le<uint64_t>(at + 8, pair[1]);
}

std::array<uint64_t, 2> load_pair(const uint8_t* at) {
  return {load_le<uint64_t>(at), load_le<uint64_t>(at + 8)};
}

Status broken(uint64_t slot, const char* what) {
  return {StatusCode::kIo, "block " + std::to_string(slot) + " of the store cannot be used: " + what};
}

bool all_zero(std::span<const uint8_t> bytes) {
  return std::ranges::all_of(bytes, [](uint8_t b) { return b == 0; });
}

}  // namespace

uint64_t StoreShape::slots_in(uint64_t bytes) const {
  if (bytes < group_offset(0)) return 0;
  const uint64_t room = bytes - group_offset(0);
  const uint64_t headers = uint64_t{kGroupSlots} * header_bytes;
  const uint64_t rest = room % group_bytes();
  return room / group_bytes() * kGroupSlots + (rest > headers ? (rest - headers) / slot_bytes : 0);
}

uint64_t StoreShape::bytes_for(uint64_t slots) const {
  return slots == 0 ? group_offset(0) : data_offset(slots - 1) + slot_bytes;
}

StoreShape store_shape(const CacheConfig& config) {
  const uint64_t header =
      kTokensAt + uint64_t{config.page_tokens} * sizeof(int32_t) + config.layers * sizeof(uint64_t);
  const uint64_t data = std::max(block_bytes(config, 0), block_bytes(config, 1));
  return {layout_hash(config), config.page_tokens, config.layers, static_cast<uint32_t>(run_align_up(header)),
          run_align_up(data)};
}

void write_superblock(const Superblock& superblock, uint32_t copy,
                      std::span<uint8_t, kSuperblockBytes> block) {
  std::ranges::fill(block, uint8_t{0});
  std::ranges::copy(kSuperMagic, block.begin());
  uint8_t* at = block.data();
  store_le<uint32_t>(at + kVersionAt, kStoreVersion);
  store_le<uint32_t>(at + kCopyAt, copy);
  store_pair(at + kFileAt, superblock.file);
  store_le<uint32_t>(at + kEpochAt, superblock.epoch);
  store_le<uint32_t>(at + kPageTokensAt, superblock.shape.page_tokens);
  store_le<uint32_t>(at + kPagesAt, superblock.shape.pages);
  store_le<uint32_t>(at + kHeaderBytesAt, superblock.shape.header_bytes);
  store_le<uint64_t>(at + kSlotBytesAt, superblock.shape.slot_bytes);
  store_le<uint64_t>(at + kLayoutAt, superblock.shape.layout);
  store_le<uint64_t>(at + kSuperChecksumAt, checksum_without(block, kSuperChecksumAt));
}

bool begins_superblock(std::span<const uint8_t, kSuperblockBytes> block) {
  return std::equal(kSuperMagic.begin(), kSuperMagic.end(), block.begin());
}

Result<Superblock> parse_superblock(std::span<const uint8_t, kSuperblockBytes> block, uint32_t copy) {
  const uint8_t* at = block.data();
  const bool whole = begins_superblock(block) && load_le<uint32_t>(at + kVersionAt) == kStoreVersion &&
                     load_le<uint32_t>(at + kCopyAt) == copy &&
                     load_le<uint64_t>(at + kSuperChecksumAt) == checksum_without(block, kSuperChecksumAt) &&
                     load_le<uint32_t>(at + kEpochAt) != 0;
  if (!whole) return Status(StatusCode::kIo, "copy " + std::to_string(copy) + " is no superblock");
  Superblock out;
  out.file = load_pair(at + kFileAt);
  out.epoch = load_le<uint32_t>(at + kEpochAt);
  out.shape = {load_le<uint64_t>(at + kLayoutAt), load_le<uint32_t>(at + kPageTokensAt),
               load_le<uint32_t>(at + kPagesAt), load_le<uint32_t>(at + kHeaderBytesAt),
               load_le<uint64_t>(at + kSlotBytesAt)};
  return out;
}

void write_block_header(const BlockHeader& header, const StoreShape& shape, std::span<uint8_t> block) {
  std::ranges::fill(block, uint8_t{0});
  std::ranges::copy(kBlockMagic, block.begin());
  uint8_t* at = block.data();
  store_le<uint32_t>(at + kVersionAt, kStoreVersion);
  store_le<uint32_t>(at + kTokenCountAt, shape.page_tokens);
  store_pair(at + kFileAt, header.file);
  store_le<uint64_t>(at + kSlotAt, header.slot);
  store_le<uint64_t>(at + kSerialAt, header.serial);
  store_le<uint64_t>(at + kBeforeAt, header.before);
  store_le<uint64_t>(at + kIndexAt, header.index);
  store_pair(at + kIdAt, {header.id.low, header.id.high});
  store_pair(at + kModelAt, header.scope.model);
  store_pair(at + kTenantAt, header.scope.tenant);
  store_le<uint64_t>(at + kAdapterAt, header.scope.adapter);
  store_le<uint32_t>(at + kRopeEpochAt, header.scope.rope_epoch);
  store_le<uint32_t>(at + kPageCountAt, shape.pages);
  store_le<uint64_t>(at + kScopeLayoutAt, header.scope.layout);
  store_le<uint64_t>(at + kDataBytesAt, header.data_bytes);
  std::ranges::copy(header.note, at + kNoteAt);
  for (size_t i = 0; i < header.tokens.size(); ++i) {
    store_le<int32_t>(at + kTokensAt + i * sizeof(int32_t), header.tokens[i]);
  }
  uint8_t* sums = at + kTokensAt + size_t{shape.page_tokens} * sizeof(int32_t);
  for (size_t i = 0; i < header.checksums.size(); ++i) {
    store_le<uint64_t>(sums + i * sizeof(uint64_t), header.checksums[i]);
  }
  store_le<uint64_t>(at + kBlockChecksumAt, checksum_without(block, kBlockChecksumAt));
}

Result<BlockHeader> parse_block_header(std::span<const uint8_t> block, const Superblock& superblock,
                                       uint64_t slot) {
  const StoreShape& shape = superblock.shape;
  const uint8_t* at = block.data();
  if (all_zero(block.first(kBlockMagic.size())))
    return Status(StatusCode::kMiss, "block " + std::to_string(slot) + " of the store is empty");
  if (!std::equal(kBlockMagic.begin(), kBlockMagic.end(), block.begin())) return broken(slot, "no magic");
  if (load_le<uint32_t>(at + kVersionAt) != kStoreVersion) return broken(slot, "another version");
  if (load_le<uint64_t>(at + kBlockChecksumAt) != checksum_without(block, kBlockChecksumAt))
    return broken(slot, "its checksum is wrong");
  BlockHeader out;
  out.file = load_pair(at + kFileAt);
  out.slot = load_le<uint64_t>(at + kSlotAt);
  out.serial = load_le<uint64_t>(at + kSerialAt);
  out.before = load_le<uint64_t>(at + kBeforeAt);
  out.index = load_le<uint64_t>(at + kIndexAt);
  const auto id = load_pair(at + kIdAt);
  out.id = {id[0], id[1]};
  out.scope = {load_pair(at + kModelAt), load_pair(at + kTenantAt), load_le<uint64_t>(at + kAdapterAt),
               load_le<uint32_t>(at + kRopeEpochAt), load_le<uint64_t>(at + kScopeLayoutAt)};
  out.data_bytes = load_le<uint64_t>(at + kDataBytesAt);
  if (out.file != superblock.file) return broken(slot, "it is of another store");
  if (out.slot != slot) return broken(slot, "it belongs elsewhere");
  if (out.serial >> kEpochShift == 0 || out.serial >> kEpochShift > superblock.epoch)
    return broken(slot, "its epoch is not of this store's past");
  if (out.scope.layout != shape.layout || load_le<uint32_t>(at + kTokenCountAt) != shape.page_tokens ||
      load_le<uint32_t>(at + kPageCountAt) != shape.pages || out.data_bytes > shape.slot_bytes) {
    return broken(slot, "its shape is another");
  }
  if ((out.index == 0) != (out.before == 0) || out.before >= out.serial)
    return broken(slot, "it cannot stand behind the block it names");
  std::copy_n(at + kNoteAt, kNoteBytes, out.note.begin());
  out.tokens.resize(shape.page_tokens);
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    out.tokens[i] = load_le<int32_t>(at + kTokensAt + i * sizeof(int32_t));
  }
  const uint8_t* sums = at + kTokensAt + size_t{shape.page_tokens} * sizeof(int32_t);
  out.checksums.resize(shape.pages);
  for (size_t i = 0; i < out.checksums.size(); ++i) {
    out.checksums[i] = load_le<uint64_t>(sums + i * sizeof(uint64_t));
  }
  return out;
}

uint64_t page_checksum(std::span<const uint8_t> page) { return XXH3_64bits(page.data(), page.size()); }

}  // namespace quire
