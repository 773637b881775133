// Space of the spill file as a buddy system: blocks of a power-of-two size, aligned to their size.
//
// Invariants: blocks handed out never overlap and never reach beyond the capacity; free neighbours that form
// a larger block are one. Space that was never used is taken last, so that the file stays as short as it can.
// Thread safety: one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>

#include "offload/extent_header.h"

namespace quire {

class ExtentAllocator {
 public:
  // capacity: bytes; what is beyond a multiple of kMinExtentBytes is not used.
  explicit ExtentAllocator(uint64_t capacity) : capacity_(capacity / kMinExtentBytes * kMinExtentBytes) {}

  // bytes: a power of two from kMinExtentBytes to kMaxExtentBytes. The offset of a block, or nothing when
  // there is none of that size.
  std::optional<uint64_t> allocate(uint32_t bytes);
  // Exactly what allocate handed out.
  void free(uint64_t offset, uint32_t bytes);

  // The largest size, at most `limit` (an allowed size), that allocate would grant now; 0 when there is none.
  uint32_t largest(uint32_t limit) const;

  uint64_t capacity() const { return capacity_; }
  uint64_t used() const { return used_; }
  uint64_t table_bytes() const;

 private:
  static constexpr size_t kClasses = 6;  // 128 KiB << class
  static_assert(kMinExtentBytes << (kClasses - 1) == kMaxExtentBytes);

  static size_t class_of(uint32_t bytes);
  uint32_t next_fresh() const;
  bool make_available(size_t wanted);

  const uint64_t capacity_;
  uint64_t fresh_ = 0;  // everything from here on was never used
  uint64_t used_ = 0;
  std::array<std::set<uint64_t>, kClasses> free_;  // offsets, by class
};

}  // namespace quire
