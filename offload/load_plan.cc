#include "offload/load_plan.h"

#include <algorithm>
#include <bit>

namespace quire {
namespace {

uint64_t bytes_of(std::span<const ReadRun> runs) {
  uint64_t bytes = 0;
  for (const ReadRun& run : runs) bytes += run.bytes;
  return bytes;
}

}  // namespace

bool nearly_all(const PageRead& page, uint64_t gap) {
  if (page.kv_heads > kMaxMaskedHeads) return true;
  const HeadMask heads = page.heads & first_heads(page.kv_heads);
  const auto left_out = page.kv_heads - static_cast<uint32_t>(std::popcount(heads));
  return uint64_t{left_out} * page.section_bytes <= gap;
}

void LoadPlan::add_page(uint32_t index, const PageRead& page) {
  page_pieces_[index] = 0;
  const auto add = [&](uint32_t first, uint32_t heads, uint64_t offset, uint32_t length) {
    pieces_.push_back({index, first, heads});
    places_.push_back({page.place.offset + offset, length, page.place.extent, page.place.generation});
    ++page_pieces_[index];
  };
  if (page.heads == kAllHeads) return add(0, page.kv_heads, 0, page.place.length);
  HeadMask left = page.heads & first_heads(page.kv_heads);
  while (left != 0) {
    const auto first = static_cast<uint32_t>(std::countr_zero(left));
    const auto heads = static_cast<uint32_t>(std::countr_one(left >> first));
    add(first, heads, page.header_bytes + uint64_t{first} * page.section_bytes, heads * page.section_bytes);
    left &= ~(first_heads(heads) << first);
  }
}

void LoadPlan::build(std::span<const PageRead> pages, uint64_t most_bytes, uint64_t gap) {
  pieces_.clear();
  places_.clear();
  reads_.clear();
  bytes_ = 0;
  std::array<Place, kRunPages> whole;
  for (size_t i = 0; i < pages.size(); ++i) whole[i] = pages[i].place;
  const std::span<const Place> all(whole.data(), pages.size());
  std::vector<ReadRun> stretches = plan_runs(all, most_bytes, gap);
  // What lies between may be more than there is memory for.
  if (bytes_of(stretches) > most_bytes) stretches = plan_runs(all, most_bytes);
  for (const ReadRun& stretch : stretches) {
    const size_t first = pieces_.size();
    for (size_t i = stretch.first; i < stretch.first + stretch.count; ++i) {
      page_at_[i] = bytes_ + (pages[i].place.offset - stretch.offset);
      add_page(static_cast<uint32_t>(i), pages[i]);
    }
    for (const ReadRun& run : plan_runs(std::span(places_).subspan(first), UINT64_MAX, gap)) {
      reads_.push_back({static_cast<uint32_t>(first + run.first), static_cast<uint32_t>(run.count),
                        bytes_ + (run.offset - stretch.offset), run.bytes});
    }
    bytes_ += stretch.bytes;
  }
}

}  // namespace quire
