// What a load asks the tier for: which bytes of its pages, in which requests, and where in memory they land.
//
// Pages that lie together on disk share a stretch of memory in which everything lies as it does on disk, also
// what is not read; so a page that is read in parts is where a whole one would be. A part that is read is a
// piece: sections of neighbouring kv heads, or a whole page. Pieces with little between them share a request.
// Invariants: no byte of memory belongs to two requests; all are multiples of kRunAlign. Thread safety: none;
// one load owns it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/config.h"
#include "kvcache/heads.h"
#include "offload/read_plan.h"

namespace quire {

// Bytes that are rather read than left out between two requests: what a disk moves in the time that a request
// costs it. 16 KiB is between a fast NVMe drive (7 GB/s and a million requests per second: 7 KiB) and the
// disk of a virtual machine (bench/README.md).
inline constexpr uint64_t kReadGap = uint64_t{16} << 10;

// One page of a load.
struct PageRead {
  Place place;
  uint32_t header_bytes = 0;   // in front of section 0
  uint32_t section_bytes = 0;  // of one kv head
  uint32_t kv_heads = 0;
  HeadMask heads = kAllHeads;  // kAllHeads: the page whole, as it was stored
};

// True when so little of the page would be left out that it is read whole.
bool nearly_all(const PageRead& page, uint64_t gap);

class LoadPlan {
 public:
  struct Piece {
    uint32_t page = 0;  // of the load
    uint32_t first_head = 0;
    uint32_t heads = 0;
  };
  struct Read {
    uint32_t first = 0;  // of the pieces
    uint32_t count = 0;
    uint64_t memory = 0;  // where it lands, from the load's memory on
    uint64_t bytes = 0;
  };

  // Memory that any kRunPages pages of up to page_bytes fit in, each with a read of its own.
  static constexpr uint64_t most_bytes(uint64_t page_bytes) {
    return run_align_up(kRunPages * page_bytes) + kRunPages * 2 * kRunAlign;
  }

  // At most kRunPages pages, in position order. Needs at most most_bytes, which is of the largest page.
  void build(std::span<const PageRead> pages, uint64_t most_bytes, uint64_t gap);

  std::span<const Read> reads() const { return reads_; }
  std::span<const Piece> pieces(const Read& read) const {
    return std::span(pieces_).subspan(read.first, read.count);
  }
  std::span<const Place> places(const Read& read) const {
    return std::span(places_).subspan(read.first, read.count);
  }
  uint64_t page_at(uint32_t page) const { return page_at_[page]; }
  uint32_t pieces_of(uint32_t page) const { return page_pieces_[page]; }
  uint64_t bytes() const { return bytes_; }

 private:
  void add_page(uint32_t index, const PageRead& page);

  std::vector<Piece> pieces_;
  std::vector<Place> places_;  // of the pieces
  std::vector<Read> reads_;
  std::array<uint64_t, kRunPages> page_at_{};
  std::array<uint32_t, kRunPages> page_pieces_{};
  uint64_t bytes_ = 0;
};

}  // namespace quire
