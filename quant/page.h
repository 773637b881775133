// The page: a header, and one section per kv head. Layout only; no pointers are owned here.
//
//   | header: 32 bytes + 16 per kv head, padded to 64 | section 0 | section 1 | ... |
//
// A section is what belongs to one kv head and can be read, checked and attended alone:
//
//   | key codes | value codes | key meta | value meta | sink keys bf16 | sink values bf16 | pad to 64 |
//
// Sinks exist in page 0 of a sequence only: the first `sink_tokens` tokens unfolded, [sinks][D] each. The
// code arrays of such a page leave these tokens out (they are not in any mean, range or scale and decode to
// junk). Invariants: a page says nothing about where it lies; its bytes never change once sealed; every
// multi-byte field is little endian. FORMATS.md is normative. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/codec.h"

namespace quire {

inline constexpr size_t kPageAlign = 64;
inline constexpr size_t kPageFixedHeaderBytes = 32;
inline constexpr size_t kPageEntryBytes = 16;
inline constexpr uint8_t kPageVersion = 1;
inline constexpr uint32_t kMaxSinkTokens = 32;

enum class KeySpace : uint8_t { kPostRope = 0, kPreRope = 1 };

// Per section, stored in the page header AND in the page table: a misdirected read must not verify.
struct SectionEntry {
  uint64_t checksum;   // xxh3_64 of the section's bytes, seed = key_param | value_param << 32
  uint32_t key_param;  // codec-defined (exponents of scale and mean)
  uint32_t value_param;
  bool operator==(const SectionEntry&) const = default;
};

// What a page must be to be read; equal for all pages of one (layer, page 0 or not).
struct PageKind {
  CodecId key_codec;
  CodecId value_codec;
  KeySpace key_space;
  uint8_t sink_tokens;  // 0 except in page 0
  uint16_t kv_heads;
  SectionShape shape;
  bool operator==(const PageKind& o) const {
    return key_codec == o.key_codec && value_codec == o.value_codec && key_space == o.key_space &&
           sink_tokens == o.sink_tokens && kv_heads == o.kv_heads && shape.tokens == o.shape.tokens &&
           shape.dim == o.shape.dim;
  }
};

// Byte offsets inside one section.
struct SectionLayout {
  uint32_t key_codes;
  uint32_t value_codes;
  uint32_t key_meta;
  uint32_t value_meta;
  uint32_t sink_keys;
  uint32_t sink_values;
  uint32_t bytes;  // multiple of 64
};

struct PageLayout {
  SectionLayout section;
  uint32_t header_bytes;  // offset of section 0, multiple of 64
  uint32_t bytes;         // multiple of 64
};

constexpr uint32_t align_up(uint32_t n, uint32_t to) { return (n + to - 1) / to * to; }

// kind must name known codecs and a valid shape (see validate_kind in kvcache).
constexpr PageLayout page_layout(const PageKind& kind) {
  const CodecInfo& k = *find_codec(kind.key_codec);
  const CodecInfo& v = *find_codec(kind.value_codec);
  const uint32_t sink_bytes = uint32_t{kind.sink_tokens} * kind.shape.dim * 2;
  PageLayout page{};
  SectionLayout& s = page.section;
  s.key_codes = 0;
  s.value_codes = static_cast<uint32_t>(code_bytes(k, kind.shape));
  s.key_meta = s.value_codes + static_cast<uint32_t>(code_bytes(v, kind.shape));
  s.value_meta = s.key_meta + static_cast<uint32_t>(meta_bytes(k, Side::kKey, kind.shape));
  s.sink_keys = s.value_meta + static_cast<uint32_t>(meta_bytes(v, Side::kValue, kind.shape));
  s.sink_values = s.sink_keys + sink_bytes;
  s.bytes = align_up(s.sink_values + sink_bytes, kPageAlign);
  page.header_bytes =
      align_up(static_cast<uint32_t>(kPageFixedHeaderBytes + kPageEntryBytes * kind.kv_heads), kPageAlign);
  page.bytes = page.header_bytes + s.bytes * kind.kv_heads;
  return page;
}

struct PageHeader {
  PageKind kind;
  uint8_t token_count;  // tokens that count, 1..page_tokens
  uint32_t rope_epoch;
  uint64_t layer_params_hash;
};

// Writes header and entries to page[0 .. header_bytes), checksum included; padding is zeroed.
void write_page_header(const PageHeader& header, std::span<const SectionEntry> entries,
                       std::span<uint8_t> page);

// What is wrong with a header's bytes, in the order it is checked.
enum class HeaderFault : uint8_t { kNone, kShort, kMagic, kVersion, kChecksum, kCodec, kGeometry };

// Parses bytes that may be anything. entries: room for header.kind.kv_heads of them, else kGeometry.
HeaderFault read_page_header(std::span<const uint8_t> page, PageHeader* header,
                             std::span<SectionEntry> entries);

uint64_t section_checksum(std::span<const uint8_t> section, uint32_t key_param, uint32_t value_param);

}  // namespace quire
