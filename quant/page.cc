// Page headers as bytes, and the section checksum.
#include "quant/page.h"

#define XXH_INLINE_ALL  // the streaming state is a complete type only then
#include <xxhash.h>

#include <algorithm>
#include <array>

#include "quant/bytes.h"

namespace quire {
namespace {

constexpr std::array<uint8_t, 3> kMagic{'Q', 'R', 'P'};
constexpr uint8_t kFlagPreRope = 1;

// Offsets in the fixed header.
constexpr size_t kVersionAt = 3;
constexpr size_t kKeyCodecAt = 4;
constexpr size_t kValueCodecAt = 5;
constexpr size_t kFlagsAt = 6;
constexpr size_t kSinkTokensAt = 7;
constexpr size_t kPageTokensAt = 8;
constexpr size_t kTokenCountAt = 9;
constexpr size_t kHeadDimAt = 10;
constexpr size_t kKvHeadsAt = 12;
constexpr size_t kZeroAt = 14;
constexpr size_t kRopeEpochAt = 16;
constexpr size_t kChecksumAt = 20;
constexpr size_t kParamsHashAt = 24;

// kv_heads is a u16: the largest header any page can have.
constexpr size_t header_bytes_of(uint32_t kv_heads) {
  return align_up(static_cast<uint32_t>(kPageFixedHeaderBytes + kPageEntryBytes * kv_heads), kPageAlign);
}

// The checksum covers the header with its own field taken as zero, without a copy of the header.
uint32_t header_checksum(std::span<const uint8_t> header) {
  constexpr std::array<uint8_t, 4> kBlank{};
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, header.data(), kChecksumAt);
  XXH3_64bits_update(&state, kBlank.data(), kBlank.size());
  XXH3_64bits_update(&state, header.data() + kParamsHashAt, header.size() - kParamsHashAt);
  return static_cast<uint32_t>(XXH3_64bits_digest(&state));
}

bool known_geometry(const PageHeader& header) {
  const PageKind& kind = header.kind;
  return valid_shape(kind.shape) && kind.kv_heads >= 1 && header.token_count >= 1 &&
         header.token_count <= kind.shape.tokens && kind.sink_tokens <= kMaxSinkTokens &&
         kind.sink_tokens <= kind.shape.tokens;
}

}  // namespace

void write_page_header(const PageHeader& header, std::span<const SectionEntry> entries,
                       std::span<uint8_t> page) {
  const PageKind& kind = header.kind;
  const std::span<uint8_t> bytes = page.first(header_bytes_of(kind.kv_heads));
  std::ranges::fill(bytes, uint8_t{0});
  std::ranges::copy(kMagic, bytes.begin());
  bytes[kVersionAt] = kPageVersion;
  bytes[kKeyCodecAt] = static_cast<uint8_t>(kind.key_codec);
  bytes[kValueCodecAt] = static_cast<uint8_t>(kind.value_codec);
  bytes[kFlagsAt] = kind.key_space == KeySpace::kPreRope ? kFlagPreRope : 0;
  bytes[kSinkTokensAt] = kind.sink_tokens;
  bytes[kPageTokensAt] = static_cast<uint8_t>(kind.shape.tokens);
  bytes[kTokenCountAt] = header.token_count;
  store_le<uint16_t>(&bytes[kHeadDimAt], static_cast<uint16_t>(kind.shape.dim));
  store_le<uint16_t>(&bytes[kKvHeadsAt], kind.kv_heads);
  store_le<uint32_t>(&bytes[kRopeEpochAt], header.rope_epoch);
  store_le<uint64_t>(&bytes[kParamsHashAt], header.layer_params_hash);
  for (size_t head = 0; head < kind.kv_heads; ++head) {
    uint8_t* entry = &bytes[kPageFixedHeaderBytes + kPageEntryBytes * head];
    store_le<uint64_t>(entry, entries[head].checksum);
    store_le<uint32_t>(entry + 8, entries[head].key_param);
    store_le<uint32_t>(entry + 12, entries[head].value_param);
  }
  store_le<uint32_t>(&bytes[kChecksumAt], header_checksum(bytes));
}

HeaderFault read_page_header(std::span<const uint8_t> page, PageHeader* header,
                             std::span<SectionEntry> entries) {
  if (page.size() < kPageFixedHeaderBytes) return HeaderFault::kShort;
  if (!std::equal(kMagic.begin(), kMagic.end(), page.begin())) return HeaderFault::kMagic;
  if (page[kVersionAt] != kPageVersion) return HeaderFault::kVersion;
  const auto kv_heads = load_le<uint16_t>(&page[kKvHeadsAt]);
  const size_t header_bytes = header_bytes_of(kv_heads);
  if (page.size() < header_bytes) return HeaderFault::kShort;
  if (load_le<uint32_t>(&page[kChecksumAt]) != header_checksum(page.first(header_bytes))) {
    return HeaderFault::kChecksum;
  }

  const CodecInfo* key_codec = find_codec(static_cast<CodecId>(page[kKeyCodecAt]));
  const CodecInfo* value_codec = find_codec(static_cast<CodecId>(page[kValueCodecAt]));
  if (key_codec == nullptr || value_codec == nullptr) return HeaderFault::kCodec;

  PageHeader parsed{
      .kind = {.key_codec = key_codec->id,
               .value_codec = value_codec->id,
               .key_space = (page[kFlagsAt] & kFlagPreRope) != 0 ? KeySpace::kPreRope : KeySpace::kPostRope,
               .sink_tokens = page[kSinkTokensAt],
               .kv_heads = kv_heads,
               .shape = {.tokens = page[kPageTokensAt], .dim = load_le<uint16_t>(&page[kHeadDimAt])}},
      .token_count = page[kTokenCountAt],
      .rope_epoch = load_le<uint32_t>(&page[kRopeEpochAt]),
      .layer_params_hash = load_le<uint64_t>(&page[kParamsHashAt])};
  const bool reserved_clear = (page[kFlagsAt] & ~kFlagPreRope) == 0 && load_le<uint16_t>(&page[kZeroAt]) == 0;
  if (!reserved_clear || !known_geometry(parsed) || entries.size() < kv_heads) return HeaderFault::kGeometry;

  *header = parsed;
  for (size_t head = 0; head < kv_heads; ++head) {
    const uint8_t* entry = &page[kPageFixedHeaderBytes + kPageEntryBytes * head];
    entries[head] = {.checksum = load_le<uint64_t>(entry),
                     .key_param = load_le<uint32_t>(entry + 8),
                     .value_param = load_le<uint32_t>(entry + 12)};
  }
  return HeaderFault::kNone;
}

uint64_t section_checksum(std::span<const uint8_t> section, uint32_t key_param, uint32_t value_param) {
  return XXH3_64bits_withSeed(section.data(), section.size(), key_param | uint64_t{value_param} << 32);
}

}  // namespace quire
