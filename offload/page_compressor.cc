#include "offload/page_compressor.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "offload/tier.h"

namespace quire {
namespace {

constexpr uint32_t kPlanes = 4;
constexpr uint32_t kLongestWait = 256;  // pages between two tries of a layer that gains nothing

constexpr size_t align_up(size_t n) { return (n + kPlaceAlign - 1) / kPlaceAlign * kPlaceAlign; }

// The parameters of a level depend on the size of what is compressed, in steps, and not always fall with it.
size_t packer_bytes(int level, size_t page_bytes) {
  size_t most = 0;
  for (const size_t step : std::array<size_t, 4>{16U << 10, 128U << 10, 256U << 10, page_bytes}) {
    const ZSTD_compressionParameters params = ZSTD_getCParams(level, std::min(step, page_bytes), 0);
    most = std::max(most, ZSTD_estimateCCtxSize_usingCParams(params));
  }
  return align_up(most);
}

void split(std::span<const uint8_t> page, uint8_t* planes) {
  const size_t n = page.size() / kPlanes;
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < kPlanes; ++k) planes[k * n + i] = page[i * kPlanes + k];
  }
}

void join(const uint8_t* planes, std::span<uint8_t> page) {
  const size_t n = page.size() / kPlanes;
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < kPlanes; ++k) page[i * kPlanes + k] = planes[k * n + i];
  }
}

// The largest stored size that saves more than 5 %.
size_t worth_it(size_t page_bytes) { return (page_bytes * 19 - 1) / 20 / kPlaceAlign * kPlaceAlign; }

}  // namespace

PageCompressor::PageCompressor(const CompressorOptions& options, BudgetedBytes memory,
                               std::span<uint8_t> planes, ZSTD_CCtx* packer, ZSTD_DCtx* unpacker)
    : level_(static_cast<int>(options.level)),
      memory_(std::move(memory)),
      planes_(planes),
      packer_(packer),
      unpacker_(unpacker),
      doubts_(options.layers) {}

Result<std::unique_ptr<PageCompressor>> PageCompressor::create(const CompressorOptions& options,
                                                               Budget& budget) {
  if (options.level == 0 || options.level > kMaxCompressionLevel) {
    return invalid("a compression level of " + std::to_string(options.level) + "; use 1 to " +
                   std::to_string(kMaxCompressionLevel));
  }
  const size_t packer_size = packer_bytes(static_cast<int>(options.level), options.page_bytes);
  const size_t unpacker_size = align_up(ZSTD_estimateDCtxSize());
  auto memory =
      BudgetedBytes::allocate(budget, Use::kStaging, packer_size + unpacker_size + options.page_bytes);
  if (!memory.ok()) {
    return Status(memory.status().code(),
                  "host_budget has no room to compress pages: " + memory.status().message());
  }
  uint8_t* at = memory->data();
  ZSTD_CCtx* packer = ZSTD_initStaticCCtx(at, packer_size);
  ZSTD_DCtx* unpacker = ZSTD_initStaticDCtx(at + packer_size, unpacker_size);
  if (packer == nullptr || unpacker == nullptr) {
    return Status(StatusCode::kUnsupported,
                  "this libzstd does not compress in memory given to it; set the level to 0");
  }
  const std::span<uint8_t> planes(at + packer_size + unpacker_size, options.page_bytes);
  return std::unique_ptr<PageCompressor>(
      new PageCompressor(options, std::move(*memory), planes, packer, unpacker));
}

uint32_t PageCompressor::compress(uint32_t layer, std::span<const uint8_t> page, std::span<uint8_t> out) {
  Doubt& doubt = doubts_[layer];
  if (doubt.left > 0) {
    --doubt.left;
    return 0;
  }
  split(page, planes_.data());
  const size_t size = ZSTD_compressCCtx(packer_, out.data(), out.size(), planes_.data(), page.size(), level_);
  const size_t stored = ZSTD_isError(size) != 0 ? page.size() : align_up(size);
  ++tries_.pages;
  tries_.folded_bytes += page.size();
  tries_.packed_bytes += stored;
  if (stored > worth_it(page.size())) {
    doubt.wait = std::clamp<uint32_t>(doubt.wait * 2, 1, kLongestWait);
    doubt.left = doubt.wait;
    return 0;
  }
  doubt = {};
  std::memset(out.data() + size, 0, stored - size);
  return static_cast<uint32_t>(stored);
}

bool PageCompressor::expand(std::span<const uint8_t> stored, std::span<uint8_t> page) {
  if (page.size() > planes_.size()) return false;
  const size_t frame = ZSTD_findFrameCompressedSize(stored.data(), stored.size());
  if (ZSTD_isError(frame) != 0) return false;
  const size_t size = ZSTD_decompressDCtx(unpacker_, planes_.data(), page.size(), stored.data(), frame);
  if (ZSTD_isError(size) != 0 || size != page.size()) return false;
  join(planes_.data(), page);
  return true;
}

}  // namespace quire
