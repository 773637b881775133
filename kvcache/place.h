// Where a copy of a page lies in the disk tier. Value type.
#pragma once

#include <cstdint>

namespace quire {

struct Place {
  uint64_t offset = 0;  // byte offset in the spill file, a multiple of 64
  uint32_t length = 0;  // stored bytes
  uint32_t extent = 0;
  uint32_t generation = 0;  // of the extent when the page was written; another one means the place is stale
};

}  // namespace quire
