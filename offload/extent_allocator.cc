#include "offload/extent_allocator.h"

#include <algorithm>
#include <bit>

namespace quire {

size_t ExtentAllocator::class_of(uint32_t bytes) {
  return static_cast<size_t>(std::countr_zero(bytes) - std::countr_zero(kMinExtentBytes));
}

std::optional<uint64_t> ExtentAllocator::allocate(uint32_t bytes) {
  const size_t wanted = class_of(bytes);
  if (!make_available(wanted)) return std::nullopt;
  size_t from = wanted;
  while (free_[from].empty()) ++from;
  const uint64_t offset = *free_[from].begin();
  free_[from].erase(free_[from].begin());
  // Keep the lower half, free the upper one, until the block is as small as wanted.
  for (; from > wanted; --from) free_[from - 1].insert(offset + (uint64_t{kMinExtentBytes} << (from - 1)));
  used_ += bytes;
  return offset;
}

void ExtentAllocator::free(uint64_t offset, uint32_t bytes) {
  used_ -= bytes;
  size_t at = class_of(bytes);
  for (; at + 1 < kClasses; ++at) {
    const uint64_t size = uint64_t{kMinExtentBytes} << at;
    if (free_[at].erase(offset ^ size) == 0) break;
    offset &= ~size;
  }
  free_[at].insert(offset);
}

// Size of the block that starts at fresh_: the largest allowed one that the capacity still holds.
uint32_t ExtentAllocator::next_fresh() const {
  return static_cast<uint32_t>(std::bit_floor(std::min<uint64_t>(kMaxExtentBytes, capacity_ - fresh_)));
}

// Sees to it that some class >= wanted has a free block.
bool ExtentAllocator::make_available(size_t wanted) {
  const auto has_one = [](const auto& blocks) { return !blocks.empty(); };
  if (std::any_of(free_.begin() + static_cast<std::ptrdiff_t>(wanted), free_.end(), has_one)) return true;
  const uint32_t block = next_fresh();
  // Blocks at the end of the capacity only get smaller.
  if (block == 0 || class_of(block) < wanted) return false;
  free_[class_of(block)].insert(fresh_);
  fresh_ += block;
  return true;
}

uint32_t ExtentAllocator::largest(uint32_t limit) const {
  uint32_t best = next_fresh();
  for (size_t i = 0; i < kClasses; ++i) {
    if (!free_[i].empty()) best = std::max(best, kMinExtentBytes << i);
  }
  return std::min(best, limit);
}

uint64_t ExtentAllocator::table_bytes() const {
  constexpr uint64_t kNodeBytes = 48;  // of a std::set<uint64_t>, with the heap's own
  uint64_t nodes = 0;
  for (const auto& blocks : free_) nodes += blocks.size();
  return nodes * kNodeBytes;
}

}  // namespace quire
