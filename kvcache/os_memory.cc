#include "kvcache/os_memory.h"

#include <sys/mman.h>
#include <unistd.h>

namespace quire {

size_t os_page_bytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t round_to_os_pages(size_t bytes) {
  const size_t mask = os_page_bytes() - 1;
  return bytes > SIZE_MAX - mask ? SIZE_MAX - mask : (bytes + mask) & ~mask;
}

uint8_t* map_os_pages(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<uint8_t*>(data);
}

void unmap_os_pages(uint8_t* data, size_t bytes) { munmap(data, bytes); }

void prefer_large_pages(uint8_t* data, size_t bytes) {
  [[maybe_unused]] const int refused = madvise(data, bytes, MADV_HUGEPAGE);
}

}  // namespace quire
