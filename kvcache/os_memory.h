// Memory straight from the operating system: zeroed, in whole pages, given back at once when it is freed, so
// that a byte budget and the resident set agree. Thread safety: free functions without state.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

// Bytes of one page of the operating system (not of the cache); a power of two.
size_t os_page_bytes();

// The least multiple of os_page_bytes() that is >= bytes; SIZE_MAX's last whole page when there is none.
size_t round_to_os_pages(size_t bytes);

// bytes: a multiple of os_page_bytes(), > 0. Zeroed; nullptr when the system refuses. The caller owns it.
uint8_t* map_os_pages(size_t bytes);

// Exactly what one map_os_pages call returned.
void unmap_os_pages(uint8_t* data, size_t bytes);

// Asks for large pages where the system has them: a disk's controller takes a limited number of pieces per
// request, and memory in 4 KiB pages is one piece per page. Changes no content and no size; without effect
// where refused.
void prefer_large_pages(uint8_t* data, size_t bytes);

}  // namespace quire
