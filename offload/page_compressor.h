// Cold compression: a page as a zstd frame while it lies on disk. EXTENTS.md describes the bytes.
//
// Before it is compressed a page is split into four planes, byte i into plane i mod 4: in pages of wide
// codecs these are exponents, mantissas, and channels of their own, and pack better apart. A page is kept
// compressed only where that saves more than 5 % of it; layers whose pages never do are asked less and less
// often. Invariants: expand writes the page it was given room for and nothing else, whatever the stored bytes
// are. Memory: fixed at creation, charged to the budget. Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvcache/budget.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace quire {

// Higher levels gain little more on pages and take too long for the thread that also starts reads.
inline constexpr uint32_t kMaxCompressionLevel = 9;

struct CompressorOptions {
  uint32_t level = 1;       // 1..kMaxCompressionLevel
  uint32_t page_bytes = 0;  // of the largest page
  uint32_t layers = 0;
};

// What compressing has come to, in bytes of all pages that were tried, also those it was not worth it for.
struct CompressionTries {
  uint64_t pages = 0;
  uint64_t folded_bytes = 0;
  uint64_t packed_bytes = 0;  // as a page would be stored; its folded bytes where it does not shrink
};

class PageCompressor {
 public:
  // kOverBudget when the budget has no room for the work space; it outlives the compressor.
  static Result<std::unique_ptr<PageCompressor>> create(const CompressorOptions& options, Budget& budget);

  // Writes the page, compressed, to the front of `out` ([page.size()]) and returns how many bytes that takes,
  // a multiple of kPlaceAlign; 0, with `out` in any state, when it saves too little or was not tried.
  uint32_t compress(uint32_t layer, std::span<const uint8_t> page, std::span<uint8_t> out);

  const CompressionTries& tries() const { return tries_; }

  // What compress wrote, back to `page`. False, with `page` in any state, when `stored` is nothing that it
  // wrote for a page of that size; true says nothing about whose page it is.
  bool expand(std::span<const uint8_t> stored, std::span<uint8_t> page);

 private:
  // How far the pages of a layer are from being worth it.
  struct Doubt {
    uint32_t wait = 0;  // pages to pass over before the next try
    uint32_t left = 0;  // of them
  };
  PageCompressor(const CompressorOptions& options, BudgetedBytes memory, std::span<uint8_t> planes,
                 ZSTD_CCtx_s* packer, ZSTD_DCtx_s* unpacker);

  const int level_;
  BudgetedBytes memory_;  // of all below
  std::span<uint8_t> planes_;
  ZSTD_CCtx_s* packer_;
  ZSTD_DCtx_s* unpacker_;
  std::vector<Doubt> doubts_;  // [layers]
  CompressionTries tries_;
};

}  // namespace quire
